"""
Availability
============

What a client does after a failure of memcached:

-   It tells its pool, and the program if it wants to know (``on_connection_failure``).
-   It names its servers in the error.
-   It lets its server rest. For some time, commands fail at once and do not try to connect.
-   With ``fail_soft`` the failure is a miss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

import pylibmc.client

from . import failures
from .circuit_breaker import CircuitBreaker
from .keys import Key

if TYPE_CHECKING:

    class _Base:
        """The interface of pylibmc's client. pylibmc itself has no types."""

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
        def set_behaviors(self, behaviors: Mapping[str, Any]) -> None: ...
        def hash(self, key: Key) -> int: ...
else:
    # Not pylibmc.Client: an agent may have put something there that is no class.
    _Base = pylibmc.client.Client

#: Seconds between two logins at several servers, if one of them refused.
LOGIN_INTERVAL = 1.0


class Availability(_Base):
    """A :class:`pylibmc.Client` that remembers a failure of its servers."""

    #: Called without arguments when memcached could not do a command.
    on_connection_failure: Callable[[], None] | None = None

    _on_failure: Callable[[Exception], None] | None = None  # the pool's
    _breaker: CircuitBreaker | None = None  # the pool's
    _fail_soft: bool = False
    _rests_until: float = 0.0
    _rests_because: str = ""
    _lost_until: float = 0.0  # how long another lost connection means that the server is gone
    _fails_until: float = 0.0  # of a client of several servers: how long one may be left out
    _hangs_until: float = 0.0  # likewise: how long none that hangs is tried if all are left out

    @property
    def renewal_interval(self) -> float:
        """Seconds until a server that failed is tried again."""
        raise NotImplementedError

    def _check_rest(self) -> None:
        """:raises ServerResting: a server failed a short time ago."""
        if monotonic() < self._rests_until:
            raise failures.ServerResting(self._rests_because)
        if self._breaker is not None:
            self._breaker.check()

    def _let_rest(self, error: Exception) -> None:
        """Let the servers rest if none of them works after *error*."""
        # libmemcached lets a server that failed rest, too. But it counts whole seconds, and some
        # commands make the rest begin anew.
        if isinstance(error, failures.ServerResting):
            return
        if len(self.addresses) > 1:
            self._fails_until = monotonic() + self.renewal_interval
        is_refused = isinstance(error, failures.LoginFailed)
        if len(self.addresses) == 1 and failures.is_outage(error):
            rest = self.renewal_interval
            if type(error) is pylibmc.ConnectionError and monotonic() >= self._lost_until:
                # It took no time, and the server may only have closed a connection that was idle.
                self._lost_until = monotonic() + rest
                return
        elif is_refused:
            rest = LOGIN_INTERVAL  # the servers have the same users: each would be tried
        else:
            return
        self._rests_until = monotonic() + rest
        what = str(error) if is_refused else f"{self._shown_addresses} failed"
        self._rests_because = f"{what}, less than {rest:g} s ago"

    def _note_failure(self, error: Exception) -> None:
        """Let the servers rest, tell those who want to know of *error*, name the servers in it."""
        self._let_rest(error)
        if self._on_failure is not None:
            self._on_failure(error)
        if self.on_connection_failure is not None:
            self.on_connection_failure()
        # No generator: an interrupt when any() closes it would be swallowed.
        if not [address for address in self.addresses if str(address) in str(error)]:
            error.args = (f"{error} (memcached: {self._shown_addresses})",)

    @property
    def _shown_addresses(self) -> str:
        return ", ".join(map(str, self.addresses))
