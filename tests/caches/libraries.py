"""Every cache library in the same words: a cache has ``get``, ``set`` and a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Callable, NamedTuple

from harness import demand, django_settings

from mcpool_wsgi import PooledClient
from mcpool_wsgi.caches.options import client_of


class Cache(NamedTuple):
    get: Callable[[str], Any]  # a miss is None
    set: Callable[[str, Any], object]
    pool: Any


@contextmanager
def django(servers: Any, **options: Any) -> Iterator[Cache]:
    backend = "mcpool_wsgi.caches.django.PooledCache"
    settings = {"BACKEND": backend, "LOCATION": servers or "", "OPTIONS": options}
    with django_settings(CACHES={"default": settings}):
        from django.core.cache import cache

        # cache.get is another one in each thread.
        yield Cache(lambda key: cache.get(key), lambda key, val: cache.set(key, val), cache.pool)


@contextmanager
def dogpile(servers: Any, **options: Any) -> Iterator[Cache]:
    from dogpile.cache import make_region

    url = {"url": servers} if servers else {}
    region = make_region().configure("mcpool", arguments={**url, **options})
    backend: Any = region.backend
    yield Cache(lambda key: region.get(key) or None, region.set, backend.pool)


@contextmanager
def flask_caching(servers: Any, **options: Any) -> Iterator[Cache]:
    from flask import Flask
    from flask_caching import Cache as FlaskCache

    app = Flask("app")
    config = {
        "CACHE_TYPE": "mcpool_wsgi.caches.flask_caching.pooled",
        "CACHE_MEMCACHED_SERVERS": servers,
        "CACHE_OPTIONS": options,
    }
    FlaskCache(app, config=config)
    (cache,) = app.extensions["cache"].values()
    yield Cache(cache.get, cache.set, cache.pool)


@contextmanager
def cachelib(servers: Any, **options: Any) -> Iterator[Cache]:
    from cachelib import MemcachedCache

    client = made_client(servers, **options)
    cache = MemcachedCache(client)
    yield Cache(cache.get, cache.set, client.pool)


@contextmanager
def beaker(servers: Any, **options: Any) -> Iterator[Cache]:
    from beaker.cache import Cache as BeakerCache

    client = made_client(servers, **options)
    cache = BeakerCache("namespace", type="mcpool", pool=options.get("pool", client))

    def get(key: str) -> Any:
        try:
            return cache.get(key)
        except KeyError:
            return None

    yield Cache(get, cache.put, client.pool)


def made_client(servers: Any, size: int = 2, pool: Any = None, **options: Any) -> PooledClient:
    if pool is None:
        return PooledClient.from_servers(servers, size, **options)
    return client_of(pool)


Opener = Callable[..., AbstractContextManager[Cache]]
#: The module that has the library, and what opens a cache.
LIBRARIES: dict[str, tuple[str, Opener]] = {
    "Django": ("django", django),
    "dogpile.cache": ("dogpile.cache", dogpile),
    "Flask-Caching": ("flask_caching", flask_caching),
    "cachelib": ("cachelib", cachelib),
    "Beaker": ("beaker", beaker),
}


def opener(library: str) -> Opener:
    module, found = LIBRARIES[library]
    demand(module)
    return found
