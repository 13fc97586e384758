"""
Machine
=======

What the figures were measured on and of.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from mcpool_wsgi.devserver import memcached

PACKAGES = [
    "mcpool-wsgi",
    "pylibmc",
    "pylibmc2",
    "cachelib",
    "gunicorn",
    "psycopg-pool",
    "pymemcache",
    "redis",
    "SQLAlchemy",
    "Werkzeug",
]


def describe() -> dict[str, str]:
    """What, by name."""
    with memcached(embedded=False) as server:
        memcached_version = server.version
    return {
        "CPU": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "memcached": memcached_version,
        **versions(),
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # of pylibmc and pylibmc2 there is only one
            continue
    return found
