"""
PasteDeploy
===========

The middleware from an ``.ini`` file.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from ..client import Client
from ..middleware import MemcachedPoolMiddleware
from ..pool import ClientPool, Pool, ThreadMappedPool
from .clients import pool_for
from .environment import address_in
from .options import ADDRESS, BEHAVIORS, CLIENT, MIDDLEWARE, POOL, parsed, part

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def filter_factory(
    global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> Callable[[WSGIApplication], MemcachedPoolMiddleware]:
    """PasteDeploy's ``paste.filter_factory``. All apps behind one filter share its pool.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises TypeError: an option is no text.
    :raises ValueError: an option is missing, unknown or wrong.
    """
    prefixed = {f"behaviors.{name}": parser for name, parser in BEHAVIORS.items()}
    options = parsed(local_conf, {**ADDRESS, **CLIENT, **prefixed, **POOL, **MIDDLEWARE})
    behaviors = {name.partition(".")[2]: options[name] for name in prefixed if name in options}
    address = {} if "servers" in options else address_in(os.environ)
    make_pool: Callable[[Client], Pool]
    if options.get("pool") == "thread-mapped":
        make_pool = functools.partial(ThreadMappedPool, **part(options, ["name"]))
    elif "size" in options:
        make_pool = functools.partial(
            ClientPool, n_slots=options["size"], **part(options, ["timeout", "name"])
        )
    else:
        raise ValueError("size is missing; use the number of threads that serve requests")
    pool = pool_for(make_pool, {**address, **options}, behaviors)

    def wrap(app: WSGIApplication) -> MemcachedPoolMiddleware:
        return MemcachedPoolMiddleware(app, pool, **part(options, MIDDLEWARE))

    return wrap


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> MemcachedPoolMiddleware:
    """PasteDeploy's ``paste.filter_app_factory``, with the options of :func:`filter_factory`."""
    return filter_factory(global_conf, **local_conf)(app)
