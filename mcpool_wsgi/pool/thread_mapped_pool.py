"""
Thread-mapped pool
==================

A client for every thread that ever needed one, so nobody waits.

.. code-block:: python

    from mcpool_wsgi import Client, ThreadMappedPool

    pool = ThreadMappedPool(Client(["127.0.0.1"]))

A reservation inside another one gets a second client. The clients of a thread are closed when
the thread ends.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .. import forks
from ..client import Client, ClientOptions, checked_seconds
from .arguments import checked_n_slots, master_of
from .pool import Pool
from .slot_queue import SlotQueue
from .slots import NO_GENERATION
from .statistics import PoolStats

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Self = TypeVar("_Self", bound="ThreadMappedPool")


class ThreadMappedPool(Pool):
    """A client for each thread, in place of :class:`pylibmc.ThreadMappedPool`.

    :param mc: the client to clone. It is not reserved itself.
    :param master: pylibmc's name for *mc*.
    :param name: what log lines and metrics call the pool. By default ``pool-1``, ``pool-2`` and
        so on.
    :raises TypeError: *mc* is no client, there are both, or *name* is no str.
    """

    timeout: float = 0.0

    def __init__(self, mc: Any = None, *, master: Any = None, name: str | None = None) -> None:
        super().__init__(name)
        if mc is not None and master is not None:
            raise TypeError("mc and master are the same parameter: give one of them")
        self._begin(master_of(master if mc is None else mc), closed=False)
        forks.reset_in_child(self)

    @classmethod
    def from_servers(
        cls: type[_Self],
        servers: Iterable[str],
        n_slots: int = 1,
        *,
        timeout: float = 0.0,
        name: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> _Self:
        """A pool of clients for *servers*. *n_slots* and *timeout* are checked, and that is all.

        :param options: those of :class:`~mcpool_wsgi.Client`: ``behaviors``, ``fail_soft`` and so
            on.
        """
        checked_n_slots(n_slots)
        checked_seconds("timeout", timeout, zero=True)
        return cls(Client(servers, **options), name=name)

    def _begin(self, master: Any, closed: bool) -> None:
        """Begin without clients, in a new pool or in a child."""
        self._start(master)
        self._is_closed = closed
        self._queues_of_threads: set[weakref.ref[SlotQueue]] = set()
        self._threads = _Threads()

    def fill(self, mc: Any, n_slots: int = 1) -> None:
        """Make all clients clones of *mc*. The number is checked, and that is all."""
        checked_n_slots(n_slots)
        self._refill(mc)

    def relinquish(self) -> Any:
        forks.check_process()
        client = None
        for slot in self._queue.idle.copy():
            client, slot.client = slot.client, None
            slot.generation = NO_GENERATION
        return client

    def close(self) -> None:
        forks.check_process()
        self._is_closed = True  # first: a thread that makes its queue now looks at this last
        super().close()

    def stats(self) -> PoolStats:
        forks.check_process()
        return self._stats(None)

    @property
    def _queue(self) -> SlotQueue:
        return self._threads.queue or self._make_queue()

    def _make_queue(self) -> SlotQueue:
        """Make the queue of the calling thread."""
        queue = SlotQueue(self._generations, self._statistics, self.name)
        self._queues_of_threads.add(weakref.ref(queue, self._queues_of_threads.discard))
        if self._is_closed:
            queue.close()
        # A signal handler or a finaliser may have made one meanwhile.
        made: SlotQueue = self._threads.__dict__.setdefault("queue", queue)
        return made

    def _queues(self) -> list[SlotQueue]:
        queues = [find() for find in self._queues_of_threads.copy()]
        return [queue for queue in queues if queue is not None]

    def _reset_in_child(self) -> None:
        self._begin(self.master, self._is_closed)


class _Threads(threading.local):
    """The queue of the thread that asks."""

    queue: SlotQueue | None = None  # until the thread first needs it
