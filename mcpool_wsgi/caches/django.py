"""
Django
======

A pool under Django's cache framework:

.. code-block:: python

    CACHES = {
        "default": {
            "BACKEND": "mcpool_wsgi.caches.django.PooledCache",
            "LOCATION": ["10.0.1.1:11211", "10.0.1.2:11211"],
            "OPTIONS": {"size": 12, "fail_soft": True},
        }
    }

``LOCATION`` is as in Django. :mod:`mcpool_wsgi.caches.options` has the ``OPTIONS``. A wrong one
is an :exc:`~django.core.exceptions.ImproperlyConfigured`.

Django makes a cache object for each thread. Those of one alias share one pool in each process. So
the number of connections does not depend on the number of threads, and a cache object may be
used in all threads.

To have the cache and the middleware on one pool, give the cache's pool to the middleware, in
``wsgi.py``::

    from django.core.cache import cache

    application = MemcachedPoolMiddleware(get_wsgi_application(), cache.pool)

Or make a :class:`~mcpool_wsgi.PooledClient` in a module of your own, give its pool to the
middleware, and name it in ``OPTIONS``, without a ``LOCATION``:
``{"pool": "project.memcached.client"}``.

With ``fail_soft``, ``incr()`` and ``decr()`` raise :exc:`ValueError` during an outage, as for
every key that is missing. A delta of more than ``2**31 - 1`` raises :exc:`OverflowError`, as with
Django's own ``PyLibMCCache``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

try:
    from django.core.cache import CacheHandler
    from django.core.cache.backends.base import DEFAULT_TIMEOUT
    from django.core.cache.backends.memcached import PyLibMCCache
    from django.core.exceptions import ImproperlyConfigured
    from django.core.signals import setting_changed
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.caches.django needs Django: pip install 'mcpool-wsgi[django]'"
    ) from _error

from ..client import LARGEST_DELTA
from ..pool import Pool
from ..pooled import PooledClient
from .options import pooled_client, within_limits

_clients: dict[tuple[str | None, str, int], PooledClient] = {}


if TYPE_CHECKING:

    class _Base:  # Django has no types
        def __init__(self, server: Any, params: dict[str, Any]) -> None: ...
        def get_backend_timeout(self, timeout: Any) -> int: ...
        def incr(self, key: str, delta: int, version: int | None) -> int: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    _Base = PyLibMCCache


class PooledCache(_Base):
    """A cache of Django with a pool.

    :param server: ``LOCATION``
    :param params: the other settings of the alias.
    :raises ImproperlyConfigured: a setting is wrong.
    """

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        alias = _alias()
        options = params.get("OPTIONS")
        if not isinstance(options, (dict, type(None))):
            raise ImproperlyConfigured(
                f"CACHES[{alias!r}]: OPTIONS must be a dict, not {options!r}"
            )
        super().__init__(server, {**params, "OPTIONS": options or {}})
        self._class = PooledClient  # what Django calls the class of the client
        self._cache: PooledClient = _client(alias, server, self._options)

    @property
    def pool(self) -> Pool:
        """The pool, for the middleware and for statistics."""
        return self._cache.pool

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int:
        return within_limits(super().get_backend_timeout(timeout))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        # No ValueError: it says that the key is missing, and callers then store a new value.
        if isinstance(delta, int) and abs(delta) > LARGEST_DELTA:
            raise OverflowError(f"delta of key {key!r} must be at most {LARGEST_DELTA}")
        value = super().incr(key, delta, version)
        if value is False:  # an outage, with fail_soft
            raise ValueError(f"Key {key!r} not found")
        return value


def _alias() -> str | None:
    """The alias for which Django makes a cache now. Only the stack tells it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # By its variables: an agent may have replaced the function.
        alias = frame.f_locals.get("alias")
        if isinstance(alias, str) and isinstance(frame.f_locals.get("self"), CacheHandler):
            return alias
        frame = frame.f_back
    return None


def _client(alias: str | None, location: Any, options: dict[str, Any]) -> PooledClient:
    """The client that all threads use for *alias* and these settings."""
    pool = options.get("pool")
    # Pools of one name and of the same servers have one repr(). The client keeps its pool, so no
    # other pool gets its id().
    key = alias, repr((location, options)), 0 if isinstance(pool, str) else id(pool)
    client = _clients.get(key)
    if client is None:
        try:
            new = pooled_client(location, options, servers_name="LOCATION", pool_name=alias)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"CACHES[{alias!r}]: {error}") from error
        client = _clients.setdefault(key, new)  # another thread may have been faster
    return client


def _forget_clients(*, setting: str, **others: Any) -> None:
    """For tests that override settings."""
    while setting == "CACHES" and _clients:
        _, client = _clients.popitem()
        client.disconnect_all()  # Django keeps the caches, and so the pool


setting_changed.connect(_forget_clients)
