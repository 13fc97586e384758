"""
Client
======

:class:`Client` is a :class:`pylibmc.Client` that checks its arguments, limits the time of its
commands, and never gives the answer of another command.

.. code-block:: python

    from mcpool_wsgi import Client

    mc = Client(["10.0.1.1", "10.0.1.2:11212"])
    mc.set("greeting", "hello", time=60)
    mc.get("greeting")

What it adds:

-   **Arguments are checked before the wire** (:mod:`mcpool_wsgi.client.arguments`). A key
    that would be a command of its own is :exc:`~mcpool_wsgi.InvalidKey`.
-   **No answer reaches another command** (:mod:`mcpool_wsgi.client.connection`). After an
    error that may leave an answer on its way, the connection is closed, and the next
    command opens another.
-   **Threads take turns.** If threads share a client by mistake, it is slow, but its answers
    are right.
-   **Every command ends** within ``command_timeout``.
-   **A fork is harmless.** In a child process the client works on a connection of the
    child's own and leaves the parent's alone.
-   **Pickle is optional** (:mod:`mcpool_wsgi.client.without_pickle`).

With ``fail_soft`` an outage of memcached is a miss:

=====================================  ==================================================
what happens                           what the caller gets with ``fail_soft=True``
=====================================  ==================================================
no connection, or it broke             reads are misses; writes return False
a time-out, or ``command_timeout``     the same
``SERVER_ERROR``, out of memory too    the same
connection limit, system errors        the same
``NotFound`` of ``incr``               raises
``ClientError``, ``TooBig``            raises
:exc:`~mcpool_wsgi.InvalidKey`         raises
wrong types, numbers out of range      raises
a value that pickle refuses            raises
=====================================  ==================================================

A miss is ``None`` or the default for ``get``, ``(None, None)`` for ``gets``, and all keys for
``set_multi`` and ``add_multi``. ``get_multi`` and ``get_stats`` return what has been read, which
may be ``{}`` or ``[]``. ``incr_multi`` returns ``None``, as always. All others return ``False``.
The pool counts and logs these failures. It does not if memcached was not asked: if
``incr_multi`` or ``delete_multi`` has no time left for its last keys, or if other threads use the
client for too long. :doc:`/reference/errors` names each error.

:doc:`/explanation/promises` lists what it does not promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, TypeVar

from .arguments import check_login, checked_seconds, checked_servers, checked_switch
from .behaviors import normalized
from .key_commands import KeyCommands
from .keys import KeyRule
from .multi_commands import MultiCommands
from .server_commands import ServerCommands
from .storing_commands import StoringCommands
from .without_pickle import Serializer, reads_pickle, without_pickle

_Self = TypeVar("_Self", bound="Client")
_Kind = TypeVar("_Kind", bound="Client")


class ClientOptions(TypedDict, total=False):
    """The parameters of :class:`Client` besides its servers."""

    behaviors: Mapping[str, Any] | None
    binary: bool
    username: str | None
    password: str | None
    fail_soft: bool
    allow_pickle: bool
    serializer: Serializer | None
    command_timeout: float


class Client(KeyCommands, StoringCommands, MultiCommands, ServerCommands):
    """A :class:`pylibmc.Client` with checks and time limits.

    :param servers: ``["host", "host:port", "/path/to/socket", ...]``
    :param behaviors: as pylibmc's. :mod:`mcpool_wsgi.client.behaviors` has the defaults.
    :param binary: speak memcached's binary protocol.
    :param username: for SASL, which needs the binary protocol and servers with a port.
    :param password: for SASL.
    :param fail_soft: a failure of memcached is a miss, as with pymemcache's
        ``ignore_exc``. A mistake of the caller still raises.
    :param allow_pickle: store values of any type. Without it, values are ``str``,
        ``bytes``, ``int``, ``bool`` and ``float``, and nothing is ever unpickled.
    :param serializer: an object with ``dumps`` and ``loads`` for values of other types,
        in place of pickle. :mod:`json` is one.
    :param command_timeout: seconds that a command may take, whatever the server does.
    :raises TypeError: *servers* is a single string, *username* and *password* are not both given,
        they are given without *binary*, *serializer* lacks a method, or another argument has a
        wrong type.
    :raises ValueError: a behavior is unknown, out of range or refused, *servers* is empty, one of
        them is no address, *command_timeout* is not positive, *username* or *password* has a
        character that cannot be sent, or there is a *username* for a server that is not reached
        over TCP.
    :raises InvalidKey: from every command, for a key that must not reach the wire.
    :raises PickleForbidden: from every command, for a value that needs pickle.
    :raises pylibmc.Error: from every command, if memcached cannot do it.
    """

    _serializer: Serializer | None = None

    def __init__(
        self,
        servers: Iterable[str],
        behaviors: Mapping[str, Any] | None = None,
        binary: bool = False,
        username: str | None = None,
        password: str | None = None,
        *,
        fail_soft: bool = False,
        allow_pickle: bool = True,
        serializer: Serializer | None = None,
        command_timeout: float = 1.0,
    ) -> None:
        """Make a client. It connects at its first command."""
        servers = checked_servers(servers)
        check_login(username, password, servers)
        binary = checked_switch("binary", binary)
        allow_pickle = checked_switch("allow_pickle", allow_pickle)
        self._credentials = (username, password)
        self._prepare(checked_seconds("command_timeout", command_timeout))
        # Kept here, because a question to libmemcached would open a connection.
        self._chosen = normalized(behaviors or {}, binary)
        self._fail_soft = checked_switch("fail_soft", fail_soft)
        if serializer is not None:
            for name in ("dumps", "loads"):
                if not callable(getattr(serializer, name, None)):
                    raise TypeError(f"serializer must have {name}(), and {serializer!r} has none")
            self._serializer = serializer
        if serializer is not None or not allow_pickle:
            self.__class__ = without_pickle(type(self))  # before the C code looks at its class
        self._add_servers(servers, binary)
        self._rule = KeyRule(binary, self._chosen.get("namespace", b""))  # last: see hash()

    def _clone(self: _Self) -> _Self:
        clone = super()._clone()
        clone._serializer = self._serializer
        return clone

    def with_servers(
        self: _Self, servers: Iterable[str], command_timeout: float | None = None
    ) -> _Self:
        """A client for other *servers*, with the options of this one.

        As :meth:`clone`, it does not call the ``__init__()`` of a subclass.

        :param command_timeout: seconds, in place of this client's.
        """
        client = self._like_this(type(self), servers, command_timeout)
        client.on_connection_failure = self.on_connection_failure
        return client

    def _like_this(
        self,
        kind: type[_Kind],
        servers: Iterable[str],
        command_timeout: float | None,
        **behaviors: Any,
    ) -> _Kind:
        if command_timeout is None:
            command_timeout = self._command_timeout
        client = Client.__new__(kind)
        Client.__init__(  # not that of a subclass, which may have other parameters
            client,
            servers,
            {**self._chosen, **behaviors},
            self.binary,
            *self._credentials,
            fail_soft=self._fail_soft,
            allow_pickle=reads_pickle(self),
            serializer=self._serializer,
            command_timeout=command_timeout,
        )
        return client

    def _for_one_server(self, address: str, command_timeout: float) -> Client:
        here = self._here()
        # Not of a subclass, which may have commands of its own.
        client = here._like_this(Client, [address], command_timeout, no_block=False)
        client._on_failure = here._on_failure
        client._listeners = here._listeners
        client.on_connection_failure = here.on_connection_failure
        return client
