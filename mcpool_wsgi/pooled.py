"""
Pooled client
=============

One object for the whole program. For each command it reserves a client of the pool, and releases
it after the command.

.. code-block:: python

    from mcpool_wsgi import PooledClient

    cache = PooledClient.from_servers(["127.0.0.1"], n_slots=12)

    cache.set("greeting", "hello")
    cache.get("greeting")

Use it where there is no request: in modules, services, background threads and command-line
programs. It is safe in any number of threads, greenlets and processes, and it can be made
before a fork.

In a request behind :class:`~mcpool_wsgi.MemcachedPoolMiddleware` with the same pool, it uses
the client of the request. So a request never needs two clients. This client has the behaviors that
the request has set, such as a ``namespace``.

If no client comes free in time, a command raises :exc:`~mcpool_wsgi.PoolTimeout`, with
``fail_soft`` as well.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, NoReturn, TypeVar

from .client import BorrowedCommands, Client, ClientOptions
from .errors import ClientReleased
from .pool import ClientPool, Pool, request_client

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Self = TypeVar("_Self", bound="PooledClient")


class PooledClient(BorrowedCommands):
    """The commands of :class:`~mcpool_wsgi.Client`, each on a client of *pool*.

    :param pool: a pool of this package, with clients of this package.
    :raises TypeError: *pool* is something else.
    """

    def __init__(self, pool: Pool) -> None:
        if not isinstance(pool, Pool):
            raise TypeError(f"PooledClient needs a pool of this package, not {pool!r}")
        self._pool = pool
        self._owns_pool = False
        self._master()
        pool._tell_requests()

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
        """A client over a pool of its own. The parameters are those of
        :meth:`ClientPool.from_servers() <mcpool_wsgi.ClientPool.from_servers>`.
        """
        pool = ClientPool.from_servers(servers, n_slots, timeout=timeout, name=name, **options)
        client = cls(pool)
        client._owns_pool = True
        return client

    @property
    def pool(self) -> Pool:
        """The pool, for its :meth:`~mcpool_wsgi.ClientPool.stats` for example."""
        return self._pool

    def _run(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        client = request_client(self._pool)
        if client is not None:
            try:
                used = client._use()
                command = getattr(used, name)
            except ClientReleased:
                pass  # another thread has released it meanwhile, before the command began
            else:
                result = client._call(used, command, args, kwargs)
                return self if result is used else result  # nobody gets the client itself
        with self._pool.reserve() as client:
            try:
                run = client._run
            except AttributeError:  # the pool was filled with other clients later
                self._master()  # says so
                raise
            result = run(name, args, kwargs)
        return self if result is client else result

    def _master(self) -> Client | None:
        """The client that the pool clones. It has the options, and no connection."""
        master = self._pool.master
        if master is not None and not isinstance(master, Client):
            raise TypeError(
                f"PooledClient needs a pool of mcpool_wsgi.Client, and this one has {type(master)}"
            )
        return master

    def _shown_client(self) -> Client:
        master = self._master()
        if master is None:
            raise RuntimeError("the pool has no clients yet: fill(mc, n_slots) makes some")
        return master

    def set_behaviors(self, behaviors: Mapping[str, Any]) -> NoReturn:
        """:raises TypeError: always. The behaviors belong to all who use the pool."""
        raise TypeError(
            "the behaviors of a PooledClient are read-only. Give them to the client that the pool"
            " is made from: ClientPool(Client(servers, behaviors={...}), n_slots)"
        )

    @property
    def behaviors(self) -> dict[str, Any]:
        """The options of libmemcached, as pylibmc names them. They cannot be changed."""
        return self.get_behaviors()

    @behaviors.setter
    def behaviors(self, behaviors: Mapping[str, Any]) -> NoReturn:
        self.set_behaviors(behaviors)

    @property
    def on_connection_failure(self) -> Callable[[], None] | None:
        """That of the client that the pool is made from. It cannot be changed."""
        return getattr(self._master(), "on_connection_failure", None)

    @on_connection_failure.setter
    def on_connection_failure(self, notice: Callable[[], None] | None) -> NoReturn:
        raise TypeError(
            "on_connection_failure of a PooledClient is read-only. Set it on the client that the"
            " pool is made from, before ClientPool(mc, n_slots)"
        )

    def clone(self: _Self) -> _Self:
        """Another client over the same pool."""
        clone = type(self).__new__(type(self))  # a subclass may have other parameters
        clone.__dict__.update(self.__dict__)
        clone._owns_pool = False
        return clone

    def disconnect_all(self) -> None:
        """Close the idle connections of the pool now and the reserved ones at their release."""
        self._pool.disconnect_all()

    def close(self) -> None:
        """Close the pool, if :meth:`from_servers` has made it."""
        if self._owns_pool:
            self._pool.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """A method or a class that a subclass of :class:`~mcpool_wsgi.Client` has of its own."""
        value = None
        if not name.startswith("_") and not hasattr(Client, name):
            value = getattr(type(self._master()), name, None)
        if not callable(value):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return value if isinstance(value, type) else functools.partial(self._run_extra, name)

    def _run_extra(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._run(name, args, kwargs)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a PooledClient is not pickled, because its connections belong to this process: make"
            " one in the other process from the same servers"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pool!r})"
