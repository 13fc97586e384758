"""
Contenders
==========

Pools, each with the shortest correct way to reserve from it. Pools of other things
than memcached clients lend fakes that do nothing, so their figures are the pool's own
code and a lower bound: redis-py also asks the socket whether there is something to read,
psycopg commits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Callable

import psycopg_pool
import pylibmc
import pymemcache
import redis
from psycopg.pq import TransactionStatus
from pymemcache.pool import ObjectPool
from sqlalchemy.pool import QueuePool

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool

OURS = "mcpool_wsgi.ClientPool"
OURS_BY_THREAD = "mcpool_wsgi.ThreadMappedPool"
LIST = "list"
BLOG = "the blog's ClientPool(list)"
PYLIBMC = "pylibmc.ClientPool"
PYLIBMC_BY_THREAD = "pylibmc.ThreadMappedPool"
LOCAL = "threading.local"

NOWHERE = ["127.0.0.1:1"]  # nothing here sends a command, so no connection is ever opened


@dataclass(frozen=True)
class Contender:
    name: str
    #: A pool with so many slots.
    make: Callable[[int], Any]
    #: One reservation, from ``pool``.
    statement: str
    #: The same as a context manager that waits while all are in use; None if the pool cannot.
    wait: Callable[[Any], AbstractContextManager[Any]] | None = None


class BlogPool(list):  # type: ignore[type-arg]
    """The one of the blog post and of pylibmc's documentation."""

    @contextmanager
    def reserve(self) -> Iterator[Any]:
        mc = self.pop()
        try:
            yield mc
        finally:
            self.append(mc)


class FakeDatabaseConnection:
    def rollback(self) -> None:
        pass

    close = rollback


class FakePostgresConnection:
    transaction_status = TransactionStatus.IDLE
    _pool = None

    @classmethod
    def connect(cls, conninfo: str, **options: Any) -> FakePostgresConnection:
        return cls()

    @property
    def pgconn(self) -> FakePostgresConnection:
        return self

    def __enter__(self) -> FakePostgresConnection:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        pass


class FakeRedisConnection:
    def __init__(self, **options: Any) -> None:
        self.pid = os.getpid()  # the pool asks whether it is its own

    def connect(self) -> None:
        pass

    disconnect = connect

    def can_read(self) -> bool:
        return False

    should_reconnect = can_read


def make_blog_pool(slots: int) -> BlogPool:
    return BlogPool(pylibmc.Client(NOWHERE) for _ in range(slots))


def make_local(slots: int) -> threading.local:
    local = threading.local()
    local.mc = pylibmc.Client(NOWHERE)
    return local


def make_redis_pool(slots: int) -> Any:
    make: Any = redis.BlockingConnectionPool  # has no types
    return make(slots, connection_class=FakeRedisConnection)


def make_postgres_pool(slots: int) -> Any:
    make: Any = psycopg_pool.ConnectionPool  # its types ask for a real connection class
    pool = make(connection_class=FakePostgresConnection, min_size=slots, open=True)
    pool.wait()
    return pool


def make_database_pool(slots: int) -> Any:
    make: Any = QueuePool  # its types ask for a real connection
    return make(FakeDatabaseConnection, pool_size=slots, max_overflow=0)


@contextmanager
def redis_connection(pool: Any) -> Iterator[Any]:
    connection = pool.get_connection()
    try:
        yield connection
    finally:
        pool.release(connection)


CONTENDERS = [
    Contender(LIST, lambda slots: list(range(slots)), "mc = pool.pop(); pool.append(mc)"),
    Contender(LOCAL, make_local, "mc = pool.mc"),
    Contender(
        OURS,
        lambda slots: ClientPool(Client(NOWHERE), slots),
        "with pool.reserve() as mc: pass",
        lambda pool: pool.reserve(),
    ),
    Contender(
        OURS_BY_THREAD,
        lambda slots: ThreadMappedPool(Client(NOWHERE)),
        "with pool.reserve() as mc: pass",
    ),
    Contender(BLOG, make_blog_pool, "with pool.reserve() as mc: pass"),
    Contender(
        PYLIBMC_BY_THREAD,
        lambda slots: pylibmc.ThreadMappedPool(pylibmc.Client(NOWHERE)),
        "with pool.reserve() as mc: pass",
    ),
    Contender(
        "pymemcache ObjectPool",
        lambda slots: ObjectPool(lambda: pymemcache.Client(NOWHERE[0]), max_size=slots),
        "with pool.get_and_release() as mc: pass",
    ),
    Contender(
        PYLIBMC,
        lambda slots: pylibmc.ClientPool(pylibmc.Client(NOWHERE), slots),
        "with pool.reserve(block=True) as mc: pass",
        lambda pool: pool.reserve(block=True),
    ),
    Contender(
        "psycopg_pool",
        make_postgres_pool,
        "with pool.connection() as connection: pass",
        lambda pool: pool.connection(),
    ),
    Contender(
        "redis-py BlockingConnectionPool",
        make_redis_pool,
        "connection = pool.get_connection(); pool.release(connection)",
        redis_connection,
    ),
    Contender(
        "SQLAlchemy QueuePool",
        make_database_pool,
        "connection = pool.connect(); connection.close()",
        lambda pool: closing(pool.connect()),
    ),
]


@contextmanager
def pools(contenders: list[Contender], slots: int) -> Iterator[dict[str, Any]]:
    """A pool of each, by name."""
    made = {contender.name: contender.make(slots) for contender in contenders}
    try:
        yield made
    finally:
        for pool in made.values():
            if hasattr(pool, "close"):  # psycopg_pool has threads that would outlive this
                pool.close()
