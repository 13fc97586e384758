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

-   **Keys are checked before the wire.** In memcached's text protocol a key with a
    space or a line break is a command of its own. pylibmc sends it, and from
    then on every answer on that connection belongs to the key before
    (the class of CVE-2020-13254). Here it is :exc:`~mcpool_wsgi.InvalidKey`.
-   **An error never leaves the connection out of step.** After an error that may,
    the client disconnects; its next command connects anew.
-   **Time limits by default**, see :data:`DEFAULT_BEHAVIORS`.
-   **A fork is harmless.** In a child process the client works on a connection
    of the child's own and leaves the parent's alone.

A client is still for one thread at a time. That is what the pools are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pylibmc

from . import failures, forks
from .keys import Key, KeyRule, encoded

#: What a :class:`Client` sets unless its caller says otherwise (pylibmc's own
#: default in brackets), and why.
DEFAULT_BEHAVIORS: Mapping[str, Any] = {
    # Milliseconds to wait for a connection [4000]. A cache that takes longer than half a second
    # to answer costs more than it saves.
    "connect_timeout": 500,
    # Milliseconds to wait for an answer [5000]. This is the limit that holds: the two below
    # bound single system calls only.
    "_poll_timeout": 500,
    # Microseconds that one receive or send on the socket may take [no limit].
    "receive_timeout": 500_000,
    "send_timeout": 500_000,
    # Send small requests at once instead of waiting for more to send [False].
    "tcp_nodelay": True,
    # Seconds for which a server that failed is not tried again [2]: commands fail in microseconds
    # meanwhile. Also how often, at most, a pool renews its clients.
    "retry_timeout": 1,
}

#: What it sets besides when there are several servers. With these, a server that fails is left
#: out, its keys go to the others and all other keys stay where they are; it is tried again later.
#: pylibmc's documentation calls it the most robust configuration.
SEVERAL_SERVERS_BEHAVIORS: Mapping[str, Any] = {
    # Consistent hashing, as other languages' clients have it [False].
    "ketama": True,
    # Failures in a row after which a server is left out [never].
    "remove_failed": 1,
    # Seconds until a server that was left out is tried again [0, which with remove_failed is
    # never]: each try costs every client two errors, or misses with fail_soft.
    "dead_timeout": 10,
}


class _Options(NamedTuple):
    """What a client was made with, besides the servers."""

    behaviors: Mapping[str, Any]
    binary: bool
    username: str | None
    password: str | None
    fail_soft: bool


if TYPE_CHECKING:

    class _Base:
        """What pylibmc, which has no types, would say of its client."""

        addresses: list[str]
        binary: bool

        def __init__(
            self,
            servers: Iterable[str],
            behaviors: Mapping[str, Any] | None,
            binary: bool,
            username: str | None,
            password: str | None,
        ) -> None: ...
        def __getitem__(self, key: Key) -> Any: ...
        def __delitem__(self, key: Key) -> None: ...
        def __contains__(self, key: object) -> bool: ...
        def clone(self) -> Any: ...
        def get_behaviors(self) -> dict[str, Any]: ...
        def set_behaviors(self, behaviors: Mapping[str, Any]) -> None: ...
        def hash(self, key: Key) -> int: ...
        def serialize(self, value: Any) -> tuple[bytes, int]: ...
        def deserialize(self, value: bytes, flags: int) -> Any: ...
else:
    _Base = pylibmc.Client


class _State(_Base):
    """What every command looks at: to read and set a slot takes a third of the time."""

    __slots__ = ("_in_doubt", "_process", "_rule")

    _in_doubt: bool  # whether the connection may be out of step
    _process: forks.Process  # the one that this client's connections belong to
    _rule: KeyRule


class Client(_State):
    """A :class:`pylibmc.Client` that is always safe to lend again.

    :param servers: ``["host", "host:port", "/path/to/socket", ...]``
    :param behaviors: as pylibmc's; what is not named here is taken from
        :data:`DEFAULT_BEHAVIORS`.
    :param binary: speak memcached's binary protocol.
    :param username: for SASL, which needs the binary protocol.
    :param password: for SASL.
    :param fail_soft: when memcached cannot be reached, reads are misses and
        writes return False, as with pymemcache's ``ignore_exc``. What the caller
        did wrong still raises. A pool counts and logs the failures.
    :raises InvalidKey: from every command, for a key that must not reach the wire.
    :raises pylibmc.Error: from every command, as pylibmc does.
    """

    #: Seconds that libmemcached takes to try a server again. A pool that renews its clients more
    #: often would make them wait for a server that is down again and again.
    renewal_interval: float = 0
    #: Called without arguments when a server could not be reached. A pool sets it.
    on_connection_failure: Callable[[], None] | None = None

    _heir: Client | None = None
    _effective: Mapping[str, Any] = {}

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
        wanted = {**DEFAULT_BEHAVIORS}
        if len(servers) > 1:
            wanted.update(SEVERAL_SERVERS_BEHAVIORS)
        wanted.update(behaviors or {})
        if "_retry_timeout" in wanted:  # pylibmc's old name for it
            wanted["retry_timeout"] = wanted.pop("_retry_timeout")
        self._process = forks.current
        self._in_doubt = False
        self._options = _Options(dict(behaviors or {}), binary, username, password, fail_soft)
        self._rule = KeyRule(binary)
        self._note(wanted, binary)
        super().__init__(
            servers, behaviors=wanted, binary=binary, username=username, password=password
        )

    def with_servers(self, servers: Iterable[str]) -> Client:
        """A client for other *servers*, with the options of this one."""
        options = self._options
        return type(self)(
            servers,
            options.behaviors,
            options.binary,
            options.username,
            options.password,
            fail_soft=options.fail_soft,
        )

    def clone(self) -> Client:
        """A client with the same servers and options, and no connection yet."""
        return self._here()._clone()

    def _clone(self) -> Client:
        # Copies options and addresses only: neither reads nor writes a socket.
        clone: Client = super().clone()
        clone._process = forks.current
        clone._in_doubt = False
        clone._options = self._options
        clone._rule = self._rule
        clone._effective = self._effective
        clone.renewal_interval = self.renewal_interval
        return clone

    def _note(self, behaviors: Mapping[str, Any], binary: bool) -> None:
        """Remember what matters here; to ask libmemcached would open a connection."""
        self._effective = {**self._effective, **behaviors}
        self.renewal_interval = max(
            self._effective.get("retry_timeout", 0), self._effective.get("dead_timeout", 0)
        )
        if "namespace" in behaviors:
            self._rule = KeyRule(binary, behaviors["namespace"] or b"")

    # -- What every command goes through

    def _command(self, command: Callable[..., Any], *args: Any) -> Any:
        # The first of args is this client, so that they go on as they came: to put it before them
        # here would copy them twice.
        if not forks.same_process:
            forks.enter_child()
        if self._process is not forks.current:
            self = self._here()
            args = (self, *args[1:])
        if self._in_doubt:
            _disconnect_all(self)
        # Until the command has ended well, so that an interrupt at any point leaves it set.
        self._in_doubt = True
        try:
            result = command(*args)
        except Exception as error:
            unreachable = failures.is_unreachable(command, error)
            self._in_doubt = not unreachable and failures.leaves_doubt(error)
            if unreachable or failures.is_broken(error):
                if self.on_connection_failure is not None:
                    self.on_connection_failure()
                if self._options.fail_soft:
                    return failures.miss(command, args[1:])
            raise
        self._in_doubt = False
        return result

    def _here(self) -> Client:
        """This client or, in a forked child, the one that stands for it there."""
        if not forks.from_elsewhere(self._process):
            return self
        heir = self._heir
        if heir is None or heir._process is not forks.current:
            heir = self._heir = self._clone()
        return heir

    def __del__(
        self,
        from_elsewhere: Callable[[forks.Process], bool] = forks.from_elsewhere,
        keep_for_ever: Callable[[object], None] = forks.keep_for_ever,
    ) -> None:
        try:
            process = self._process
        except AttributeError:  # interrupted in the making
            return
        if from_elsewhere(process):
            keep_for_ever(self)

    # -- One key

    def get(self, key: Key, default: Any = None) -> Any:
        """The value stored under *key*, or *default*."""
        self._rule.check(key)
        return self._command(_get, self, key, default)

    def gets(self, key: Key) -> Any:
        """``(value, cas)`` for *key*, or ``(None, None)``; needs the behavior ``cas``."""
        self._rule.check(key)
        return self._command(_gets, self, key)

    def set(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Store *val* under *key*.

        :param time: seconds until it expires; 0 for never.
        :param min_compress_len: compress values of at least that many bytes.
        :return: whether it was stored.
        """
        self._rule.check(key)
        return bool(self._command(_set, self, key, val, time, min_compress_len, compress_level))

    def add(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is no such key yet."""
        self._rule.check(key)
        return bool(self._command(_add, self, key, val, time, min_compress_len, compress_level))

    def replace(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is such a key."""
        self._rule.check(key)
        return bool(
            self._command(_replace, self, key, val, time, min_compress_len, compress_level)
        )

    def append(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* behind the value stored under *key*."""
        self._rule.check(key)
        return bool(self._command(_append, self, key, val, time, min_compress_len, compress_level))

    def prepend(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* before the value stored under *key*."""
        self._rule.check(key)
        return bool(
            self._command(_prepend, self, key, val, time, min_compress_len, compress_level)
        )

    def cas(self, key: Key, val: Any, cas: int, time: int = 0) -> bool:
        """Store *val* if nobody has since :meth:`gets` gave *cas*."""
        self._rule.check(key)
        return bool(self._command(_cas, self, key, val, cas, time))

    def incr(self, key: Key, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum."""
        self._rule.check(key)
        total: int = self._command(_incr, self, key, delta)
        return total

    def decr(self, key: Key, delta: int = 1) -> int:
        """Subtract *delta* from the number under *key*, not below 0, and return the rest."""
        self._rule.check(key)
        rest: int = self._command(_decr, self, key, delta)
        return rest

    def touch(self, key: Key, seconds: int) -> bool:
        """Have *key* expire in so many *seconds* from now."""
        self._rule.check(key)
        return bool(self._command(_touch, self, key, seconds))

    def delete(self, key: Key) -> bool:
        """Remove *key*; whether there was one."""
        self._rule.check(key)
        return bool(self._command(_delete, self, key))

    def __setitem__(self, key: Key, val: Any) -> None:
        if not self.set(key, val) and not self._options.fail_soft:
            raise KeyError(f"failed setting {key!r}")

    # -- Many keys. Prefixes are put on here: pylibmc checks no length and cuts at NUL bytes.

    def get_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> dict[Key, Any]:
        """``{key: value}`` for those of *keys* that there are."""
        named = self._prefixed(keys, key_prefix)
        found = self._command(_get_multi, self, list(named))
        return {named[key]: value for key, value in found.items()}

    def set_multi(
        self,
        mapping: Mapping[Key, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[Key]:
        """Store all of *mapping*; the keys that could not be stored."""
        return self._store_multi(
            _set_multi, mapping, key_prefix, time, b"", min_compress_len, compress_level
        )

    def add_multi(
        self,
        mapping: Mapping[Key, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[Key]:
        """Like :meth:`set_multi`, of keys that are not there yet."""
        return self._store_multi(
            _add_multi, mapping, key_prefix, time, b"", min_compress_len, compress_level
        )

    def incr_multi(
        self, keys: Iterable[Key], key_prefix: Key | None = None, delta: int = 1
    ) -> None:
        """Add *delta* to the numbers under all of *keys*."""
        self._command(_incr_multi, self, list(self._prefixed(keys, key_prefix)), b"", delta)

    def delete_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> bool:
        """Remove all of *keys*; whether all were there."""
        if isinstance(keys, Mapping):
            raise TypeError("keys must be a sequence, not a mapping")
        deleted = [self.delete(key) for key in self._prefixed(keys, key_prefix)]
        return all(deleted)

    def _store_multi(
        self,
        command: Callable[..., Any],
        mapping: Mapping[Key, Any],
        key_prefix: Key | None,
        *args: Any,
    ) -> list[Key]:
        named = self._prefixed(mapping, key_prefix)
        values = {full: mapping[key] for full, key in named.items()}
        return [named[full] for full in self._command(command, self, values, *args)]

    def _prefixed(self, keys: Iterable[Key], key_prefix: Key | None) -> dict[bytes, Key]:
        """The keys as they go over the wire, each with the caller's name for it."""
        if isinstance(keys, (str, bytes)):
            raise TypeError(f"keys is a sequence of keys, not the single {keys!r}")
        prefix = b"" if key_prefix is None else encoded(key_prefix)
        named: dict[bytes, Key] = {}
        for key in keys:
            self._rule.check(key, prefix)
            named[prefix + encoded(key)] = key
        return named

    # -- No key

    def flush_all(self, time: int = 0) -> bool:
        """Forget everything on all servers, in *time* seconds."""
        return bool(self._command(_flush_all, self, time))

    def get_stats(self, *args: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """``[(server, {name: value}), ...]``"""
        found: list[tuple[bytes, dict[bytes, bytes]]] = self._command(_get_stats, self, *args)
        return found

    def disconnect_all(self) -> None:
        """Close all connections; the next command opens what it needs."""
        self._command(_disconnect_all, self)

    def get_behaviors(self) -> dict[str, Any]:
        """See :attr:`behaviors`."""
        return super(Client, self._here()).get_behaviors()

    def set_behaviors(self, behaviors: Mapping[str, Any]) -> None:
        """See :attr:`behaviors`."""
        self._note(behaviors, self.binary)
        self._options = self._options._replace(behaviors={**self._options.behaviors, **behaviors})
        super(Client, self._here()).set_behaviors(dict(behaviors))

    @property
    def behaviors(self) -> dict[str, Any]:
        """The options of libmemcached, as pylibmc names them. To read them opens a connection."""
        return self.get_behaviors()

    @behaviors.setter
    def behaviors(self, behaviors: Mapping[str, Any]) -> None:
        self.set_behaviors(behaviors)


_get = pylibmc.Client.get
_gets = pylibmc.Client.gets
_set = pylibmc.Client.set
_add = pylibmc.Client.add
_replace = pylibmc.Client.replace
_append = pylibmc.Client.append
_prepend = pylibmc.Client.prepend
_cas = pylibmc.Client.cas
_incr = pylibmc.Client.incr
_decr = pylibmc.Client.decr
_touch = pylibmc.Client.touch
_delete = pylibmc.Client.delete
_get_multi = pylibmc.Client.get_multi
_set_multi = pylibmc.Client.set_multi
_add_multi = pylibmc.Client.add_multi
_incr_multi = pylibmc.Client.incr_multi
_flush_all = pylibmc.Client.flush_all
_get_stats = pylibmc.Client.get_stats
_disconnect_all = pylibmc.Client.disconnect_all
