"""
Flask-Caching
=============

A pool under Flask-Caching:

.. code-block:: python

    from flask import Flask
    from flask_caching import Cache

    app = Flask(__name__)
    cache = Cache(
        app,
        config={
            "CACHE_TYPE": "mcpool_wsgi.caches.flask_caching.pooled",
            "CACHE_MEMCACHED_SERVERS": ["10.0.1.1", "10.0.1.2"],
            "CACHE_OPTIONS": {"size": 12, "fail_soft": True},
        },
    )

``CACHE_DEFAULT_TIMEOUT``, ``CACHE_KEY_PREFIX``, ``CACHE_MEMCACHED_USERNAME`` and
``CACHE_MEMCACHED_PASSWORD`` are as in Flask-Caching. ``CACHE_OPTIONS`` has the options of
:mod:`mcpool_wsgi.caches.options`.

To have the cache and the middleware on one pool, give the cache's pool to the middleware:

.. code-block:: python

    app.wsgi_app = MemcachedPoolMiddleware(app.wsgi_app, cache.cache.pool)

Or make the pool yourself, and give it to both: ``"CACHE_OPTIONS": {"pool": pool}``, without
``CACHE_MEMCACHED_SERVERS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

try:
    from flask_caching.backends.memcache import MemcachedCache
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.caches.flask_caching needs Flask-Caching:"
        " pip install 'mcpool-wsgi[flask-caching]'"
    ) from _error

from ..pool import Pool
from .options import pooled_client, within_limits

if TYPE_CHECKING:
    from flask import Flask

_Self = TypeVar("_Self", bound="PooledCache")

_OF_FLASK_CACHING = ("default_timeout", "ignore_delete_many_errors")


if TYPE_CHECKING:

    class _Base:  # Flask-Caching need not be there
        def __init__(self, servers: Any, **options: Any) -> None: ...
        def _normalize_timeout(self, timeout: int | None) -> int: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    _Base = MemcachedCache


class PooledCache(_Base):
    """A cache of Flask-Caching with a pool. :func:`pooled` makes it."""

    @classmethod
    def factory(
        cls: type[_Self],
        app: Flask,
        config: dict[str, Any],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> _Self:
        """See :func:`pooled`. Flask-Caching calls this if ``CACHE_TYPE`` is the class."""
        if args:
            raise ValueError(f"CACHE_ARGS must be empty, not {args!r}: use CACHE_OPTIONS")
        options = {name: kwargs[name] for name in kwargs if name not in _OF_FLASK_CACHING}
        for name in ("username", "password"):
            options.setdefault(name, config.get(f"CACHE_MEMCACHED_{name.upper()}"))
        client = pooled_client(
            config["CACHE_MEMCACHED_SERVERS"], options, servers_name="CACHE_MEMCACHED_SERVERS"
        )
        of_flask_caching = {name: kwargs[name] for name in kwargs if name in _OF_FLASK_CACHING}
        return cls(client, key_prefix=config["CACHE_KEY_PREFIX"], **of_flask_caching)

    @property
    def pool(self) -> Pool:
        """The pool, for the middleware and for statistics."""
        pool: Pool = self._client.pool
        return pool

    def _normalize_timeout(self, timeout: int | None) -> int:
        return within_limits(super()._normalize_timeout(timeout))


def pooled(
    app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
) -> PooledCache:
    """The cache of *app*. Flask-Caching calls this.

    :raises TypeError: an option has a wrong type.
    :raises ValueError: an option is unknown or wrong.
    """
    return PooledCache.factory(app, config, args, kwargs)
