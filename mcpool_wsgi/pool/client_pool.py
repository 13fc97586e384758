"""
Client pool
===========

A pool with a fixed number of slots. The pool makes a client when one is needed, and never has
more clients than slots. If no slot is idle, the caller waits, and waiters are served in the
order in which they came.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool

    pool = ClientPool(Client(["127.0.0.1"]), 12)

    with pool.reserve() as mc:
        mc.set("greeting", "hello")

The last client released is the first to be reserved again, so a quiet process has few
connections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .. import forks
from ..client import Client, ClientOptions, checked_seconds
from .arguments import checked_n_slots, master_of
from .pool import Pool
from .slot_queue import SlotQueue
from .statistics import PoolStats

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Self = TypeVar("_Self", bound="ClientPool")


class ClientPool(Pool):
    """A pool of at most *n_slots* clients, in place of :class:`pylibmc.ClientPool`.

    :param mc: the client to clone. It is not reserved itself.
    :param n_slots: how many clients there may be at the same time. Best is the number of threads
        that serve requests. A slot that was never used costs nothing.
    :param timeout: seconds that a reservation waits for a client.
    :param name: what log lines and metrics call the pool. By default ``pool-1``, ``pool-2`` and
        so on.
    :raises TypeError: *mc* is no client, or is missing beside *n_slots*, a number is none, or
        *name* is no str.
    :raises ValueError: *n_slots* is not positive, or *timeout* negative or not finite.

    Without *mc* the pool is empty until :meth:`fill`.
    """

    def __init__(
        self, mc: Any = None, n_slots: int = 0, *, timeout: float = 5.0, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.timeout: float = checked_seconds("timeout", timeout, zero=True)
        master = None if mc is None else master_of(mc)
        size = 0 if mc is None and n_slots in (0, None) else checked_n_slots(n_slots)
        if mc is None and size:
            raise TypeError(f"mc is missing: {n_slots} slots need a client")
        self._begin(master, size, closed=False)
        forks.reset_in_child(self)

    @classmethod
    def from_servers(
        cls: type[_Self],
        servers: Iterable[str],
        n_slots: int,
        *,
        timeout: float = 5.0,
        name: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> _Self:
        """A pool of clients for *servers*.

        :param options: those of :class:`~mcpool_wsgi.Client`: ``behaviors``, ``fail_soft`` and so
            on.
        """
        return cls(Client(servers, **options), n_slots, timeout=timeout, name=name)

    def _begin(self, master: Any, size: float, closed: bool) -> None:
        """Begin without clients, in a new pool or in a child."""
        self._start(master)
        queue = SlotQueue(self._generations, self._statistics, self.name, size)
        if closed:
            queue.close()
        self._queue = queue

    def fill(self, mc: Any, n_slots: int) -> None:
        n_slots = checked_n_slots(n_slots)
        self._refill(mc)
        self._queue.grow(n_slots)

    def stats(self) -> PoolStats:
        forks.check_process()
        return self._stats(int(self._queue.size))

    def _reset_in_child(self) -> None:
        # The parent's queue stays in the reservations that the child has inherited.
        self._begin(self.master, self._queue.size, self._queue.closed)
