"""
mcpool-wsgi
===========

A WSGI middleware that reserves a memcached client for every request, and the
pools that it reserves from.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

    pool = ClientPool(Client(["127.0.0.1"]), 12)
    app = MemcachedPoolMiddleware(app, pool)

The app then finds a client of its own in ``environ["mc.client"]``.
"""

__version__ = "0.1.0"

from .client import Client as Client
from .client import CommandEvent as CommandEvent
from .errors import ClientReleased as ClientReleased
from .errors import InvalidKey as InvalidKey
from .errors import PickleForbidden as PickleForbidden
from .errors import PoolClosed as PoolClosed
from .errors import PoolTimeout as PoolTimeout
from .middleware import MemcachedPoolMiddleware as MemcachedPoolMiddleware
from .middleware import get_client as get_client
from .pool import ClientPool as ClientPool
from .pool import Holder as Holder
from .pool import LentClient as LentClient
from .pool import Pool as Pool
from .pool import PoolStats as PoolStats
from .pool import ThreadMappedPool as ThreadMappedPool
from .pooled import PooledClient as PooledClient
