"""
Development server
==================

A small memcached for development and tests. With it, the examples and the tests
run where no memcached is installed. It speaks memcached's classic text protocol and
gives the same answers as memcached 1.6.18, byte for byte, but for its version and its
statistics. It keeps its items in memory, up to a limit, and evicts the least recently used
ones first. It uses only the standard library.

Start it from the command line, like ``memcached`` itself:

.. code-block:: console

    $ python -m mcpool_wsgi.devserver --port 11211
    listening on 127.0.0.1:11211

In tests and scripts, :func:`memcached` runs a server for the length of a ``with``
block. It starts the real memcached if one is installed, and this server otherwise.

.. code-block:: python

    from mcpool_wsgi import Client
    from mcpool_wsgi.devserver import memcached

    with memcached() as server:
        client = Client([server.address])
        client.set("greeting", "hello")

It is *not* for production, not for measuring speed, and not for a network that
other people use. It does not speak the binary protocol, SASL, UDP or the meta
commands, so a client of it needs ``binary=False``, which is the default.
"""

from .launch import Memcached as Memcached
from .launch import memcached as memcached
from .server import format_address as format_address
