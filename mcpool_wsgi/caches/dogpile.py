# mypy: allow-untyped-calls
"""
dogpile.cache
=============

A pool under dogpile.cache, as the backend ``mcpool``:

.. code-block:: python

    from dogpile.cache import make_region

    region = make_region().configure(
        "mcpool",
        expiration_time=3600,
        arguments={"url": ["10.0.1.1", "10.0.1.2"], "size": 12, "fail_soft": True},
    )

The arguments are those of dogpile's own backend for pylibmc (``url``, ``distributed_lock``,
``lock_timeout``, ``memcached_expire_time``, ``min_compress_len``) and those of
:mod:`mcpool_wsgi.caches.options`. With ``arguments={"pool": pool}`` the region uses a pool that
you have made.

A region stores its values with pickle. To do without, give it a serializer, and the backend
``allow_pickle=False``:

.. code-block:: python

    import json

    region = make_region(
        serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
    )
    region.configure("mcpool", arguments={"url": ["10.0.1.1"], "allow_pickle": False})

With ``distributed_lock`` and ``fail_soft``, during an outage nobody waits for the lock: every
thread makes the value itself.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

try:
    from dogpile.cache.backends.memcached import MemcachedLock, PylibmcBackend
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.caches.dogpile needs dogpile.cache: pip install 'mcpool-wsgi[dogpile]'"
    ) from _error

from ..client import LARGEST_LENGTH, LARGEST_TIME, CommandEvent, checked_number, checked_switch
from ..pool import Pool
from ..pooled import PooledClient
from .options import pooled_client

#: The arguments of dogpile's own that are numbers, and the largest that memcached knows.
_NUMBERS = {
    "lock_timeout": LARGEST_TIME,
    "memcached_expire_time": LARGEST_TIME,
    "min_compress_len": LARGEST_LENGTH,
}
_OF_DOGPILE = ("url", "distributed_lock", *_NUMBERS)


if TYPE_CHECKING:

    class _Base:  # dogpile.cache need not be there
        def __init__(self, arguments: dict[str, Any]) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    _Base = PylibmcBackend


class PooledBackend(_Base):
    """A backend of dogpile.cache with a pool.

    :param arguments: see above.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: an argument is unknown or wrong.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        if "serializer" in arguments:
            raise ValueError("serializer is an argument of make_region(), with a deserializer")
        of_dogpile = {
            name: arguments[name] for name in _OF_DOGPILE if arguments.get(name) is not None
        }
        for name, largest in _NUMBERS.items():
            checked_number(name, of_dogpile.get(name, 0), largest)
        checked_switch("distributed_lock", of_dogpile.get("distributed_lock", False))
        options = {name: arguments[name] for name in arguments if name not in _OF_DOGPILE}
        self._client = pooled_client(
            arguments.get("url"), options, servers_name="url", others=_OF_DOGPILE
        )
        super().__init__({"url": [], **of_dogpile})

    def _create_client(self) -> PooledClient:
        return self._client  # all threads have this one

    @property
    def pool(self) -> Pool:
        """The pool, for the middleware and for statistics."""
        return self._client.pool

    def get_mutex(self, key: str) -> Any:
        if not self.distributed_lock:
            return None
        return MemcachedLock(lambda: _LockClient(self._client), key, timeout=self.lock_timeout)


class _LockClient:
    """What a lock does with memcached.

    :class:`MemcachedLock` tries ``add()`` until it returns True. With ``fail_soft`` it would do
    so until an outage is over, so the lock counts as acquired if memcached cannot be reached.
    """

    def __init__(self, client: PooledClient) -> None:
        self._client = client
        self.get = client.get
        self.delete = client.delete

    def add(self, key: str, value: object, time: int) -> bool:
        failures: list[CommandEvent] = []
        thread = threading.get_ident()

        def note(event: CommandEvent) -> None:
            # A command of another thread may fail at the same time.
            if event.outcome == "failure" and threading.get_ident() == thread:
                failures.append(event)

        stop = self._client.pool.observe(note)
        try:
            return self._client.add(key, value, time) or bool(failures)
        finally:
            stop()
