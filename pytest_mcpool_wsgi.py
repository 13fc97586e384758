"""
Pytest fixtures
===============

Fixtures for the tests of an app that uses mcpool-wsgi. pytest finds them where the package is
installed.

.. code-block:: python

    from mcpool_wsgi import MemcachedPoolMiddleware
    from werkzeug.test import Client

    from hello import app  # a WSGI app

    def test_index(memcached_pool):
        client = Client(MemcachedPoolMiddleware(app, memcached_pool))
        assert client.get("/").status_code == 200

A fixture does nothing until a test uses it: nothing of ``mcpool_wsgi`` is imported before. This
module is outside of the package for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mcpool_wsgi import Client, ClientPool
    from mcpool_wsgi.devserver import Memcached


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[Memcached]:
    """A memcached that runs until the last test has ended.

    It is the real memcached if one is installed, and the development server otherwise.
    """
    from mcpool_wsgi.devserver import memcached

    with memcached() as server:
        yield server


@pytest.fixture
def memcached_address(memcached_server: Memcached) -> str:
    """The address of ``memcached_server``. At the start of the test it has no keys."""
    from mcpool_wsgi import Client

    Client([memcached_server.address]).flush_all()
    return memcached_server.address


@pytest.fixture
def memcached_client(memcached_address: str) -> Iterator[Client]:
    """A ``mcpool_wsgi.Client`` of ``memcached_address``."""
    from mcpool_wsgi import Client

    client = Client([memcached_address])
    yield client
    client.disconnect_all()


@pytest.fixture
def memcached_pool(memcached_address: str) -> Iterator[ClientPool]:
    """A ``mcpool_wsgi.ClientPool`` with 12 slots, of ``memcached_address``."""
    from mcpool_wsgi import Client, ClientPool

    with ClientPool(Client([memcached_address]), 12) as pool:
        yield pool
