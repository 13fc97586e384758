"""
Pool
====

What both pools have in common. One pool can take the other's place in one line:

.. code-block:: python

    pool = ClientPool(Client(["127.0.0.1"]), 12)
    pool = ThreadMappedPool(Client(["127.0.0.1"]))

pylibmc's pools lack what these have:

-   Waits end, and waiters are served in order.
-   Clients are made when they are needed.
-   A forked child shares no connection with its parent.
-   After a restart of memcached, all clients are renewed.
-   The client of a thread is closed when the thread ends.
-   There are :meth:`~Pool.stats` and :meth:`~Pool.close`.

Give a :class:`mcpool_wsgi.Client` to the pool. A plain :class:`pylibmc.Client` works, too. But
nobody checks its arguments or notices its failures, and ``reserve()`` gives the client itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Callable, NoReturn, TypeVar

from .. import forks
from ..client import Client, Listener, checked_seconds, observe
from .arguments import master_of
from .generations import Generations
from .holders import Holder, find_holders
from .lent_client import LentClient
from .lent_subclass import reservation_classes
from .observed import ReservationListener, observed
from .outages import Outages
from .request_client import untold_requests
from .reservation import NOT_RESERVED
from .slot_queue import SlotQueue
from .statistics import PoolStats, Statistics

_Self = TypeVar("_Self", bound="Pool")
_numbers = itertools.count(1)


class Pool:
    """The interface of both pools, for annotations."""

    timeout: float
    #: What log lines and metrics call the pool.
    name: str
    #: Not empty if a PooledClient asks which client the running request has. A list, so that a
    #: middleware that was made earlier sees the change.
    _tells_requests: list[bool]
    #: Requests that began before that. None if no PooledClient asks.
    _untold_requests: list[Any] | None
    _generations: Generations
    _statistics: Statistics
    _lent_class: type[LentClient]
    _lazy_class: Callable[[], LentClient]
    _queue: Any  # the SlotQueue to go to: the pool's, or the calling thread's

    def __init__(self, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        self.name = name or f"pool-{next(_numbers)}"
        self._tells_requests = []
        self._untold_requests = None
        self._listeners: list[Listener] = []
        self._reservation_listeners: list[ReservationListener] = []
        self._outages = Outages(self.name, self._listeners)

    @property
    def master(self) -> Any:
        """The client that the pool's clients are clones of. None in a pool that is not filled."""
        return self._generations.current.master

    # No parameter is keyword-only: Python takes longer to call a function with such ones.
    def reserve(
        self, block: bool = True, timeout: float | None = None, lazy: bool = False
    ) -> LentClient:
        """Reserve a client for the length of a ``with`` block.

        :param block: wait if no client is idle.
        :param timeout: seconds to wait at most, in place of the pool's ``timeout``.
        :param lazy: reserve it at its first command, without a ``with`` block. The caller must
            call ``release()``.
        :return: a :class:`LentClient`. If the pool's clients are not
            :class:`mcpool_wsgi.Client`, entering it gives the client itself.
        :raises PoolTimeout: no client came free in time; on entering the block.
        :raises PoolClosed: likewise, if the pool is closed.
        :raises TypeError: *timeout* is no number, or *lazy* needs other clients; by ``reserve()``.
        :raises ValueError: *timeout* is negative or not finite; likewise.
        """
        if lazy:
            reservation = self._reserve_lazily()
        else:
            lent_class = self._lent_class  # no method: Python would look for one in the class
            reservation = lent_class()
            reservation._pool = self
            reservation._client = NOT_RESERVED
        if timeout is not None:
            reservation._timeout = checked_seconds("timeout", timeout, zero=True)
        if not block:
            reservation._timeout = 0.0
        return reservation

    def _reserve_lazily(self) -> LentClient:
        """The same as ``reserve(lazy=True)``."""
        lazy_class = self._lazy_class
        reservation = lazy_class()
        reservation._pool = self
        reservation._client = NOT_RESERVED
        return reservation

    def _start(self, master: Any) -> None:
        """Start with no client, for clones of *master*."""
        if self._untold_requests:  # of the parent, if this is a child
            self._untold_requests = []
        self._statistics = Statistics()
        self._outages.forget()
        self._outages = Outages(self.name, self._listeners)
        self._generations = Generations(master, self._statistics, self._outages, self._listeners)
        self._choose_classes()

    def _choose_classes(self) -> None:
        """Choose the classes of reservations, for the clients and the listeners that there are."""
        lent, lazy = reservation_classes(self.master)
        if self._reservation_listeners:
            lent = observed(lent, self._reservation_listeners)
            lazy = observed(lazy, self._reservation_listeners)
        self._lent_class, self._lazy_class = lent, lazy

    def _refill(self, mc: Any) -> None:
        forks.check_process()
        before = self.master
        if before is not None and isinstance(mc, Client) is not isinstance(before, Client):
            raise TypeError(f"a pool has clients of one kind: {type(before)}, and not {type(mc)}")
        self._generations.begin(master_of(mc), "fill")
        self._choose_classes()

    def relinquish(self) -> Any:
        """Give up the calling thread's idle client, if it has one of its own.

        There is no need to: the client is closed when the thread ends.

        :return: that client, or None.
        """
        return None

    def fill(self, mc: Any, n_slots: int) -> None:
        """Allow *n_slots* more clients, and make all of them clones of *mc*.

        :raises TypeError: *mc* is no client, or of another kind, or *n_slots* is no int.
        :raises ValueError: *n_slots* is not positive.
        """
        raise NotImplementedError

    def set_servers(self, servers: Iterable[str]) -> None:
        """Use other *servers* from now on, with the options of the client so far.

        Idle clients are closed at once, and reserved ones at their release.

        :raises TypeError: the pool's clients are not :class:`mcpool_wsgi.Client`, or *servers* is
            no list.
        :raises ValueError: *servers* is empty, or one of them is no address.
        """
        forks.check_process()
        master = self.master
        if not isinstance(master, Client):
            raise TypeError(
                f"set_servers() needs clients that are mcpool_wsgi.Client, not {type(master)}"
            )
        self._generations.begin(master.with_servers(servers), "servers")
        self._outages.forget()
        for queue in self._queues():
            queue.drop_old_clients()

    def disconnect_all(self) -> None:
        """Close the idle connections now and the reserved ones at their release."""
        forks.check_process()
        self._generations.renew("disconnect")
        for queue in self._queues():
            queue.drop_old_clients()

    def close(self) -> None:
        """Close the idle connections now and the reserved ones at their release.

        Each waiter gets a :exc:`PoolClosed`, as does every later reservation. Closing again
        does nothing.
        """
        forks.check_process()
        for queue in self._queues():
            queue.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return bool(self._queue.closed)

    def stats(self) -> PoolStats:
        """How the pool is doing."""
        raise NotImplementedError

    def holders(self, longer_than: float = 0.0) -> list[Holder]:
        """Who holds the reserved clients, the longest first.

        It takes some milliseconds in a large program, because it asks Python's garbage collector
        which request has which client.

        :param longer_than: seconds. Holders with a shorter time are left out.
        :raises TypeError: it is no number.
        :raises ValueError: it is negative or not finite.
        """
        longer_than = checked_seconds("longer_than", longer_than, zero=True)
        forks.check_process()
        slots = [slot for queue in self._queues() for slot in queue.in_use()]
        return find_holders(slots, longer_than)

    def observe(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after each command of the pool's clients, with a
        :class:`~mcpool_wsgi.CommandEvent`.

        :return: a function that ends it.
        :raises TypeError: *listener* cannot be called.
        """
        return observe(self._listeners, listener)

    def observe_reservations(self, listener: ReservationListener) -> Callable[[], None]:
        """Call *listener* when a client is reserved or released, with what has happened
        (``reserved``, ``timed out`` or ``released``) and the seconds that it took.

        :return: a function that ends it.
        :raises TypeError: *listener* cannot be called.
        """
        stop_telling = observe(self._reservation_listeners, listener)
        self._choose_classes()

        def stop() -> None:
            stop_telling()
            self._choose_classes()

        return stop

    def _tell_requests(self) -> None:
        """Tell from now on which client the running request has."""
        if self._untold_requests is None:
            # This first: a request that does not see it has a client already.
            self._tells_requests[:] = [True]
            self._untold_requests = untold_requests(self)

    def _queues(self) -> list[SlotQueue]:
        return [self._queue]

    def _stats(self, slots: int | None) -> PoolStats:
        queues = self._queues()
        # A slot that was replaced may be idle once more (see Slot).
        idle_slots = [slot for queue in queues for slot in queue.idle.copy() if not slot.replaced]
        all_slots = [slot for queue in queues for slot in queue.slots()]
        idle = sum(slot.client is not None for slot in idle_slots)
        in_use = len(all_slots) - len(idle_slots)
        return PoolStats(
            slots=slots,
            size=idle + in_use,
            idle=idle,
            in_use=in_use,
            waiting=sum(len(queue.waiters) for queue in queues),
            **self._statistics.counts(slot.reservations for slot in all_slots),
        )

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # A copy would have the same slots, and a forked child would not reset them.
        raise TypeError(
            f"a {type(self).__name__} is neither copied nor pickled, because its connections"
            " belong to this process: make another one from the same servers"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.master!r}>"
