"""Addresses of servers: which are refused, and which are taken."""

from __future__ import annotations

from typing import Any

import pylibmc
import pytest
from hostile_values import BAD_SERVERS

from mcpool_wsgi import Client


@pytest.mark.parametrize("what", BAD_SERVERS)
def test_bad_server_is_refused_at_construction(what: str) -> None:
    server = BAD_SERVERS[what]
    for servers in ([server], ["127.0.0.1", server]):
        with pytest.raises((ValueError, TypeError)) as refused:
            Client(servers)
        # So that one of a hundred is found.
        assert repr(server) in str(refused.value)
    with pytest.raises((ValueError, TypeError)):
        Client(["127.0.0.1"]).with_servers([server])


@pytest.mark.parametrize("servers", ["", b"", None, 5, [], ()])
def test_no_servers_are_refused_at_construction(servers: Any) -> None:
    with pytest.raises((ValueError, TypeError, pylibmc.Error)):
        Client(servers)


def test_servers_that_pylibmc_takes_are_taken(address: str) -> None:
    host, _, port = address.rpartition(":")
    for server in (address, f"{address}:3", (1, host, int(port)), f"[{host}]:{port}"):
        if server == f"[{host}]:{port}":
            Client([server])  # an address of IPv6 would be in there
        else:
            assert Client([server]).set("key", "value")  # type: ignore[list-item]
    Client([(1, host, int(port))], None, True, "user", "password")  # type: ignore[list-item]
