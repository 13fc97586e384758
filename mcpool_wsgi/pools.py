"""
Pools
=====

Two drop-in replacements for pylibmc's pools.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool

    pool = ClientPool(Client(["127.0.0.1"]), 12)

    with pool.reserve() as mc:
        mc.set("greeting", "hello")

:class:`ClientPool` has a fixed number of slots: as many clients exist as were
ever needed at once, and never more. Who finds none free waits for one.
:class:`ThreadMappedPool` has a client for every thread that ever needed one.
They have the same methods, so that one can take the other's place:

.. code-block:: python

    pool = ThreadMappedPool(Client(["127.0.0.1"]))

What pylibmc's lack and these have: waits that end, first come first served;
clients made on demand; connections that no forked child shares; recovery of all
clients at once when memcached has been restarted; a thread's client that goes
with the thread; :meth:`~ClientPool.stats` and :meth:`~ClientPool.close`.

Wherever a client is wanted, :class:`mcpool_wsgi.Client` is the one to give. A
plain :class:`pylibmc.Client` works, too, but its keys are not checked and its
failures not noticed.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TypeVar

from . import forks
from .client import Client
from .leases import Lease, TimedLease
from .lending import Lender, ThreadLender
from .stats import PoolStats
from .supply import Supply

_Self = TypeVar("_Self", bound="_Pool")


class _Pool:
    """What both pools have."""

    timeout: float
    _lender: Any  # the Lender to go to: the pool's, or the calling thread's

    def reserve(self, block: bool = True, timeout: float | None = None) -> Lease:
        """Reserve a client for the length of a ``with`` block.

        :param block: wait if none is free.
        :param timeout: how many seconds at most, instead of the pool's ``timeout``.
        :raises PoolTimeout: no client came free in time; on entering the block.
        :raises PoolClosed: likewise, if the pool is closed.
        :raises TypeError: *timeout* is no number; at once.
        :raises ValueError: *timeout* is negative or not finite; at once.
        """
        # A lease has no __init__: it would cost as much as all the rest of a reservation.
        if block and timeout is None:
            lease = Lease()
            lease.pool = self
            return lease
        timed = TimedLease()
        timed.pool = self
        limit = 0 if timeout is None else _checked_timeout(timeout)
        timed.timeout = limit if block else 0
        return timed

    def relinquish(self) -> Any:
        """Give up the calling thread's idle client, if it has one of its own.

        Never needed: it is given up when the thread ends.

        :return: that client, or None.
        """
        return None

    def fill(self, mc: Any, n_slots: int) -> None:
        """Make room for *n_slots* more clients, and all of them clones of *mc*.

        :raises TypeError: *mc* is no client.
        :raises ValueError: *n_slots* is not positive.
        """
        raise NotImplementedError

    def set_servers(self, servers: Iterable[str]) -> None:
        """Use other *servers* from now on, with the options of the client so far.

        Idle clients are closed at once; lent ones are replaced when they are next reserved.

        :raises TypeError: the pool's clients are not :class:`mcpool_wsgi.Client`.
        """
        forks.check_process()
        supply = self._lender.supply
        master = supply.generation.master
        if not isinstance(master, Client):
            raise TypeError(
                f"set_servers() needs clients that are mcpool_wsgi.Client, not {master!r}"
            )
        supply.renew(master.with_servers(servers), "servers")
        for lender in self._lenders():
            lender.retire_idle()

    def close(self) -> None:
        """Close the idle connections now and the lent ones as they come back.

        Whoever waits for a client gets a :exc:`PoolClosed`, as does every later
        reservation. Closing again does nothing.
        """
        raise NotImplementedError

    def stats(self) -> PoolStats:
        """How the pool is doing."""
        raise NotImplementedError

    def _lenders(self) -> list[Lender]:
        return [self._lender]

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stats(self, slots: int | None) -> PoolStats:
        forks.check_process()
        lenders = self._lenders()
        supply = self._lender.supply
        idle_slots = [slot for lender in lenders for slot in lender.idle.copy()]
        idle = sum(slot.client is not None for slot in idle_slots)
        in_use = self._lender.live_slots() - len(idle_slots)
        return PoolStats(
            slots=slots,
            size=idle + in_use,
            idle=idle,
            in_use=in_use,
            waiting=sum(len(lender.waiters) for lender in lenders),
            **supply.counts(),
        )


class ClientPool(_Pool):
    """A pool of at most *n_slots* clients, in place of :class:`pylibmc.ClientPool`.

    :param mc: the client to clone; it is not lent itself.
    :param n_slots: how many clients there may be at once: best as many as the
        process has threads that serve requests.
    :param timeout: seconds that a reservation waits for a client.
    :raises TypeError: *mc* is no client, or a number is none.
    :raises ValueError: *n_slots* is not positive, or *timeout* negative or not finite.

    Without *mc* the pool is empty until :meth:`fill`.
    """

    def __init__(self, mc: Any = None, n_slots: int = 0, *, timeout: float = 5.0) -> None:
        self.timeout: float = _checked_timeout(timeout)
        self._n_slots = 0
        self._lender = Lender(Supply())
        if mc is not None:
            self.fill(mc, n_slots)
        forks.tell_in_child(self)

    def fill(self, mc: Any, n_slots: int) -> None:
        n_slots = _checked_number(n_slots)
        forks.check_process()
        self._lender.supply.renew(_master(mc), "fill")
        self._n_slots += n_slots
        self._lender.add_slots(n_slots)

    def close(self) -> None:
        forks.check_process()
        self._lender.close()

    def stats(self) -> PoolStats:
        return self._stats(self._n_slots)

    def _start_afresh(self) -> None:
        old = self._lender
        lender = Lender(Supply(old.supply.generation.master))
        lender.add_slots(self._n_slots)
        if old.supply.closed:
            lender.close()
        self._lender = lender


class ThreadMappedPool(_Pool):
    """A client per thread, in place of :class:`pylibmc.ThreadMappedPool`.

    There is always a client to be had, so nobody waits, and there are as many
    as there are threads (and as reservations within reservations need). A
    thread's clients are closed when it ends.

    :param mc: the client to clone; it is not lent itself.
    :raises TypeError: *mc* is no client.
    """

    timeout: float = 0.0

    def __init__(self, mc: Any) -> None:
        self._threads = _Threads(Supply(_master(mc)), set())
        forks.tell_in_child(self)

    def fill(self, mc: Any, n_slots: int = 1) -> None:
        """Have all clients be clones of *mc*. The number is checked, and that is all."""
        _checked_number(n_slots)
        forks.check_process()
        self._lender.supply.renew(_master(mc), "fill")

    def relinquish(self) -> Any:
        forks.check_process()
        client = None
        idle = self._lender.idle
        while idle:
            client = idle.pop().give_up_client()
        return client

    def close(self) -> None:
        forks.check_process()
        self._lender.supply.closed = True
        for lender in self._lenders():
            lender.close()

    def stats(self) -> PoolStats:
        return self._stats(None)

    @property
    def _lender(self) -> Lender:
        return self._threads.lender

    def _lenders(self) -> list[Lender]:
        lenders = [reference() for reference in self._threads.lenders.copy()]
        return [lender for lender in lenders if lender is not None]

    def _start_afresh(self) -> None:
        old = self._lender.supply
        supply = Supply(old.generation.master)
        supply.closed = old.closed
        self._threads = _Threads(supply, set())


class _Threads(threading.local):
    """The lender of the thread that asks, made when it first does (see threading.local)."""

    def __init__(self, supply: Supply, lenders: set[weakref.ref[Lender]]) -> None:
        self.lender = ThreadLender(supply)
        self.lenders = lenders
        lenders.add(weakref.ref(self.lender, lenders.discard))


def _master(mc: Any) -> Any:
    """A client like *mc* that nobody uses while it is being cloned."""
    if not callable(getattr(mc, "clone", None)):
        raise TypeError(f"a pool is filled with clones of a client, and {mc!r} is none")
    return mc.clone()


def _checked_number(n_slots: int) -> int:
    if operator.index(n_slots) < 1:
        raise ValueError(f"n_slots must be a positive number, not {n_slots}")
    return n_slots


def _checked_timeout(timeout: float) -> float:
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds, not {timeout!r}")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a finite number of seconds, 0 or more, not {timeout}")
    return timeout
