"""
Behaviors
=========

The options of libmemcached for which :class:`~mcpool_wsgi.Client` has other defaults than
pylibmc. What its caller names in ``behaviors`` comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .keys import encoded

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
    # meanwhile. Also how often, at most, a pool renews its clients, if dead_timeout is no longer.
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


def completed(behaviors: Mapping[str, Any], servers: int) -> dict[str, Any]:
    """*behaviors* for so many *servers*, with the defaults for what they leave out."""
    several = SEVERAL_SERVERS_BEHAVIORS if servers > 1 else {}
    return {**DEFAULT_BEHAVIORS, **several, **behaviors}


def normalized(behaviors: Mapping[str, Any]) -> dict[str, Any]:
    """*behaviors* as pylibmc understands them, under the names of today.

    :raises InvalidKey: the ``namespace`` cannot be encoded.
    """
    normal = dict(behaviors)
    if "_retry_timeout" in normal:
        normal["retry_timeout"] = normal.pop("_retry_timeout")
    namespace = normal.pop("namespace", None)
    if namespace is not None:
        normal["namespace"] = encoded(namespace)  # of all but bytes it reads other memory
    return normal
