"""Several memcacheds on one port, as the pods of a headless service: one address for each."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pytest
from nameserver import one_port

from mcpool_wsgi import Client
from mcpool_wsgi.devserver import memcached

HOSTS = [f"127.0.0.{number}" for number in range(11, 17)]


class Fleet:
    """``start()`` and ``kill()`` the memcached at one of HOSTS."""

    def __init__(self, embedded: bool | None) -> None:
        if sys.platform != "linux":
            pytest.skip("needs Linux, where all of 127.0.0.0/8 is this machine")
        self._embedded = embedded
        self.port = one_port(HOSTS)
        self.running: dict[str, ExitStack] = {}

    def start(self, *hosts: str) -> None:
        for host in hosts:
            self.running[host] = node = ExitStack()
            node.enter_context(memcached(embedded=self._embedded, host=host, port=self.port))

    def kill(self, *hosts: str) -> None:
        for host in hosts:
            self.running.pop(host).close()

    def close(self) -> None:
        self.kill(*self.running)

    def where(self, values: dict[str | bytes, Any]) -> dict[str, str]:
        """The host at which each key of *values* has its value."""
        found = {}
        for host in self.running:
            stored = Client([f"{host}:{self.port}"], command_timeout=10).get_multi(list(values))
            found.update({str(key): host for key in values if stored.get(key) == values[key]})
        return found


def numbered(keys: Iterable[str], number: int) -> dict[str | bytes, Any]:
    """A value for each key, which says whose it is."""
    return {key: f"{key} {number}" for key in keys}
