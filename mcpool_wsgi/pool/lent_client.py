"""
Lent client
===========

What ``pool.reserve()`` returns. A :class:`LentClient` is the reservation and the client in
one: it has the commands of :class:`~mcpool_wsgi.Client`, and it stands for a connection of
the pool until its release.

.. code-block:: python

    with pool.reserve() as mc:
        mc.set("greeting", "hello")

    mc.get("greeting")  # ClientReleased

The pools of HikariCP and SQLAlchemy return a thin object of the same kind, which knows when it is
over.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, NoReturn, TypeVar

from .. import forks
from ..client import AnyKey, BorrowedCommands, Client, Key, discard
from ..errors import PoolTimeout
from .reservation import NOT_RESERVED, RELEASED, Reservation
from .slots import NO_GENERATION

_Self = TypeVar("_Self", bound="LentClient")


class LentClient(BorrowedCommands, Reservation):
    """A client of a pool, for the length of one reservation.

    It is reserved when it is entered. From its release on, every command raises
    :exc:`~mcpool_wsgi.ClientReleased`. Behaviors and attributes that are set on it end
    with it.

    :raises PoolTimeout: when it is reserved: no client came free in time.
    :raises PoolClosed: when it is reserved: the pool is closed.
    """

    __slots__ = ("__dict__", "__weakref__", "_has_own_client")

    _has_own_client: bool

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
        def __enter__(self: _Self) -> _Self: ...

    def _run(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(self._use(), name)(*args, **kwargs)

    def _call(
        self,
        client: Any,
        command: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a *command* of *client*, which is what :meth:`_use` has returned."""
        return command(*args, **kwargs)

    def _shown_client(self) -> Client:
        return self._use()  # type: ignore[no-any-return]

    def _use(self) -> Any:
        """The client to use now."""
        return self._client

    # The commands that are used most have their parameters by name. With the *args and **kwargs of
    # BorrowedCommands, such a command would take a fifth more of Python's time.

    def get(self, key: Key, default: Any = None) -> Any:
        return self._use().get(key, default)

    def set(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        stored: bool = self._use().set(key, val, time, min_compress_len, compress_level)
        return stored

    def get_multi(
        self, keys: Iterable[AnyKey], key_prefix: Key | None = None
    ) -> dict[AnyKey, Any]:
        found: dict[AnyKey, Any] = self._use().get_multi(keys, key_prefix)
        return found

    def set_behaviors(self, behaviors: Mapping[str, Any]) -> None:
        """Change options for the rest of this reservation. It opens a connection of its own."""
        self._own_client().set_behaviors(behaviors)

    @property
    def on_connection_failure(self) -> Callable[[], None] | None:
        """Called without arguments when memcached could not do a command."""
        notice: Callable[[], None] | None = self._use().on_connection_failure
        return notice

    @on_connection_failure.setter
    def on_connection_failure(self, notice: Callable[[], None] | None) -> None:
        self._own_client().on_connection_failure = notice

    def _own_client(self) -> Any:
        """A client of this reservation alone, in the place of the slot's."""
        self._use()  # reserves a lazy client
        with self._lock():
            return self._client if getattr(self, "_has_own_client", False) else self._make_own()

    def _make_own(self) -> Any:
        client = self._client
        own = client.clone()
        own._on_failure = client._on_failure
        own._listeners = client._listeners
        client._breaker.guard(own)
        try:
            slot = self._slot
            del self._slot  # as a release takes it, so that nobody else has it meanwhile
        except AttributeError:
            # The release has come. Or an interrupt came, the last time, and the slot was lost.
            self.release()
            return self._client
        # This one is discarded at the release. The next reservation makes a new client.
        slot.generation = NO_GENERATION
        slot.process, slot.client = forks.current, own
        self._has_own_client = True
        self._client = own
        self._slot = slot
        discard(client)
        if getattr(self, "_is_over", False):  # the release came, and found no slot
            self.release()
        return own

    def _lock(self) -> AbstractContextManager[Any]:
        """The lock of the threads of one request.

        Those of a forked child have a lock of their own, because a thread of the parent may hold
        the parent's for ever.
        """
        lock = threading.RLock()
        return self.__dict__.setdefault(f"_lock_of_{os.getpid()}", lock)  # type: ignore[no-any-return]


class LazyClient(LentClient):
    """A lent client that is reserved at its first command, and not when it is entered."""

    __slots__ = ()

    _asked_at: float = 0.0  # when the first command came, in monotonic() time

    def __enter__(self: _Self) -> _Self:
        if self._client is RELEASED:
            self._client.clone()  # raises
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over = True  # a thread that reserves it at this moment looks at this last
        if self._client is NOT_RESERVED:
            self._client = RELEASED
        else:
            super().__exit__()

    def _shown_client(self) -> Client:
        # Its options are known without a connection, but not before the pool is filled.
        if self._client is NOT_RESERVED and self._pool.master is not None:
            return self._pool.master  # type: ignore[no-any-return]
        return super()._shown_client()

    def _use(self) -> Any:
        if self._client is NOT_RESERVED:
            forks.check_process()
            if not self._asked_at:
                self._asked_at = monotonic()
            with self._lock():  # several threads of one request have one slot
                if self._client is NOT_RESERVED:
                    self._reserve_for_all_threads()
        return self._client

    def _reserve_for_all_threads(self) -> None:
        try:
            self._reserve_now()
            # Any thread of the request may do this. The thread of the server releases the slot.
            if hasattr(self, "_server_thread"):
                with contextlib.suppress(AttributeError):  # the release has come
                    self._slot.thread = self._server_thread
        except PoolTimeout as error:
            error._client_id = id(self)
            raise
        except _ReservedMeanwhile:
            pass
        if getattr(self, "_is_over", False):  # the release came while this waited
            self.release()

    def _wait_limit(self) -> float:
        # For the whole request, as if it were not lazy: neither the waits of its threads nor those
        # of its commands add up.
        return max(0.0, self._asked_at + super()._wait_limit() - monotonic())

    def _raise_not_again(self) -> NoReturn:
        raise _ReservedMeanwhile


class _ReservedMeanwhile(Exception):
    """A signal handler has used a lazy client right before it was reserved."""
