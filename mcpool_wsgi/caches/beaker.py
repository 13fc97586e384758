"""
Beaker
======

A pool under Beaker's caches and sessions, as the type ``mcpool``::

    cache.type = mcpool
    cache.pool = project.memcached.client
    session.type = mcpool
    session.pool = project.memcached.client

``pool`` is a :class:`~mcpool_wsgi.PooledClient` or a pool, or where to import it. Make a
:class:`~mcpool_wsgi.PooledClient` in a module of your own, and give its pool to the middleware.
There are no other options, because ``timeout`` and others are Beaker's own.
All else is as with ``ext:memcached``: ``clear()`` of a cache removes everything in memcached.
But errors are raised: :exc:`pylibmc.TooBig` for a value that is too large, for example.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

try:
    from beaker.container import NamespaceManager
    from beaker.exceptions import MissingCacheParameter
    from beaker.ext.memcached import MemcachedNamespaceManager
    from beaker.util import verify_directory
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.caches.beaker needs Beaker: pip install 'mcpool-wsgi[beaker]'"
    ) from _error

from ..pooled import PooledClient
from .options import OPTIONS, client_of, within_limits

if TYPE_CHECKING:

    class _Base:  # Beaker has no types
        def set_value(self, key: str, value: Any, expiretime: int | None) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    _Base = MemcachedNamespaceManager


class PooledNamespaceManager(_Base):
    """A namespace of Beaker in a pool.

    :param pool: a pool or a :class:`~mcpool_wsgi.PooledClient`, or where to import it.
    :raises MissingCacheParameter: *pool* is missing.
    :raises TypeError: *pool* is something else.
    :raises ValueError: nothing can be imported from there, or there is an option of the pool.
    """

    def __init__(
        self,
        namespace: str,
        pool: Any = None,
        data_dir: str | None = None,
        lock_dir: str | None = None,
        **of_beaker: Any,
    ) -> None:
        NamespaceManager.__init__(self, namespace)
        if pool is None:
            raise MissingCacheParameter("pool is required")
        for name in ("url", *OPTIONS):
            if name != "timeout" and of_beaker.get(name) is not None:  # that is Beaker's own
                raise ValueError(f"{name} belongs to the pool: give it where the pool is made")
        self.mc: PooledClient = client_of(pool)
        self.lock_dir: str | None = lock_dir or (data_dir and f"{data_dir}/container_mcd_lock")
        if self.lock_dir:
            verify_directory(self.lock_dir)

    def set_value(self, key: str, value: Any, expiretime: float | None = None) -> None:
        # Beaker keeps the exact time in the value. It may be a fraction, or below 0. In memcached,
        # 0 is for ever.
        if expiretime is not None:
            expiretime = math.ceil(expiretime) if expiretime > 0 else math.floor(expiretime)
            expiretime = within_limits(expiretime)
        super().set_value(key, value, expiretime)
