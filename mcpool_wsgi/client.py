"""
Client
======

:class:`Client` is :class:`pylibmc.Client` made safe to lend: wherever one stood,
the other can stand.

.. code-block:: python

    from mcpool_wsgi import Client

    mc = Client(["10.0.1.1", "10.0.1.2:11212"])
    mc.set("greeting", "hello", time=60)
    mc.get("greeting")

What it adds:

-   **Keys are checked before the wire** (:mod:`mcpool_wsgi.commands`). One that would be
    a command of its own is :exc:`~mcpool_wsgi.InvalidKey`.
-   **An error never leaves the connection out of step** (:mod:`mcpool_wsgi.connection`).
    After an error that may, the client disconnects; its next command connects anew.
-   **Time limits by default** (:mod:`mcpool_wsgi.behaviors`).
-   **A fork is harmless.** In a child process the client works on a connection
    of the child's own and leaves the parent's alone.

A client is still for one thread at a time. That is what the pools are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .behaviors import completed, normalized
from .commands import Commands
from .keys import KeyRule

_Self = TypeVar("_Self", bound="Client")


class Client(Commands):
    """A :class:`pylibmc.Client` that is always safe to lend again.

    :param servers: ``["host", "host:port", "/path/to/socket", ...]``
    :param behaviors: as pylibmc's; for what is not named here see
        :mod:`mcpool_wsgi.behaviors`.
    :param binary: speak memcached's binary protocol.
    :param username: for SASL, which needs the binary protocol.
    :param password: for SASL.
    :param fail_soft: when memcached cannot be reached, reads are misses and
        writes return False, as with pymemcache's ``ignore_exc``. What the caller
        did wrong still raises. A pool counts and logs the failures.
    :raises TypeError: *servers* is a single string, or there are credentials without *binary*.
    :raises ValueError: a behavior is unknown, or a server does not parse.
    :raises InvalidKey: from every command, for a key that must not reach the wire; and at once,
        for such a ``namespace``.
    :raises pylibmc.Error: from every command, as pylibmc does.
    """

    def __init__(
        self,
        servers: Iterable[str],
        behaviors: Mapping[str, Any] | None = None,
        binary: bool = False,
        username: str | None = None,
        password: str | None = None,
        *,
        fail_soft: bool = False,
    ) -> None:
        if isinstance(servers, (str, bytes)):
            raise TypeError(f"servers is a list of addresses, not the single {servers!r}")
        servers = list(servers)
        # Kept here, because to ask libmemcached for its behaviors would open a connection.
        self._chosen: Mapping[str, Any] = normalized(behaviors or {})
        self._credentials: tuple[str | None, str | None] = (username, password)
        self._fail_soft = fail_soft
        self._rule = KeyRule(binary, self._chosen.get("namespace") or b"")
        super().__init__(
            servers, completed(self._chosen, len(servers)), binary, username, password
        )

    def _clone(self: _Self) -> _Self:
        clone = super()._clone()
        clone._chosen = self._chosen
        clone._credentials = self._credentials
        return clone

    def with_servers(self: _Self, servers: Iterable[str]) -> _Self:
        """A client for other *servers*, with the options of this one."""
        return type(self)(
            servers, self._chosen, self.binary, *self._credentials, fail_soft=self._fail_soft
        )

    @property
    def renewal_interval(self) -> float:
        """Seconds that libmemcached takes to try a server again.

        A pool that renewed its clients more often would have them wait for a server
        that is down again and again.
        """
        behaviors = completed(self._chosen, len(self.addresses))
        return float(max(behaviors["retry_timeout"], behaviors.get("dead_timeout", 0)))

    def get_behaviors(self) -> dict[str, Any]:
        """See :attr:`behaviors`."""
        return super(Client, self._here()).get_behaviors()

    def set_behaviors(self, behaviors: Mapping[str, Any]) -> None:
        """See :attr:`behaviors`."""
        behaviors = normalized(behaviors)
        chosen = {**self._chosen, **behaviors}
        rule = KeyRule(self.binary, chosen.get("namespace") or b"")
        here = self._here()
        if here is self:
            super().set_behaviors(behaviors)
        else:
            here.set_behaviors(behaviors)
        self._rule, self._chosen = rule, chosen  # once it has been taken

    @property
    def behaviors(self) -> dict[str, Any]:
        """The options of libmemcached, as pylibmc names them. To read them opens a connection."""
        return self.get_behaviors()

    @behaviors.setter
    def behaviors(self, behaviors: Mapping[str, Any]) -> None:
        self.set_behaviors(behaviors)
