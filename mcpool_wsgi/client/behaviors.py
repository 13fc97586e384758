"""
Behaviors
=========

The options of libmemcached: those for which :class:`~mcpool_wsgi.Client` has other defaults than
pylibmc, and those that it refuses. The caller's ``behaviors`` come first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pickle import HIGHEST_PROTOCOL
from typing import Any

import pylibmc

from .keys import encoded

#: As a ``failure_limit``: libmemcached leaves no server out.
NO_LIMIT = 2**31 - 1

#: What a :class:`Client` sets unless its caller says otherwise (pylibmc's own default in
#: brackets), and why.
DEFAULT_BEHAVIORS: Mapping[str, Any] = {
    # Milliseconds to wait for a connection [4000]. A cache that takes longer than half a second
    # to answer costs more than it saves.
    "connect_timeout": 500,
    # Milliseconds to wait for the next bytes of an answer [5000].
    "_poll_timeout": 500,
    # Microseconds that one receive or send on the socket may take [no limit].
    "receive_timeout": 500_000,
    "send_timeout": 500_000,
    # Send small requests at once instead of waiting for more to send [False].
    "tcp_nodelay": True,
    # Seconds for which a server that failed is not tried again [2]: commands fail in microseconds
    # meanwhile. A pool renews its clients at most this often, or once per dead_timeout if that is
    # longer.
    "retry_timeout": 1,
}

#: What a client of several servers sets in addition. A server that fails is left out. Its keys go
#: to the others, all other keys stay where they are, and the server is tried again later.
#: pylibmc's documentation calls this the most robust configuration.
SEVERAL_SERVERS_BEHAVIORS: Mapping[str, Any] = {
    # Consistent hashing, as clients in other languages have it [False].
    "ketama": True,
    # Failures in a row after which a server is left out [never].
    "remove_failed": 1,
    # Seconds until a server that was left out is tried again [0, which with remove_failed is
    # never]. Each try costs every client one error, or one miss with fail_soft.
    "dead_timeout": 10,
}

#: What a client of one server sets in addition.
ONE_SERVER_BEHAVIORS: Mapping[str, Any] = {
    # Failures in a row after which libmemcached itself lets the server rest [5]. It counts whole
    # seconds, so the retry_timeout would be up to a second longer. The client does it instead.
    "failure_limit": NO_LIMIT,
}

#: Behaviors with which libmemcached leaves out a server that fails.
_LEAVING_OUT = ("remove_failed", "auto_eject")
_LONGEST_NAMESPACE = 127  # bytes, for libmemcached
_is_printable_ascii = re.compile(rb"[!-~]+").fullmatch
_LARGEST = NO_LIMIT  # libmemcached keeps most of them in a C int
#: Behaviors that are refused if they are on, and why.
_REFUSED = {
    "num_replicas": "with replicas libmemcached crashes, and answers with other keys' values",
    "_noreply": "without an answer nobody knows whether a command was done",
    "buffer_requests": "pylibmc reports each buffered request as an error",
}
_NAMED = {
    "hash": pylibmc.hashers,
    "ketama_hash": pylibmc.hashers,
    "distribution": pylibmc.distributions,
}
_WEIGHTED = "consistent weighted"
_KNOWN = {*pylibmc.all_behaviors, "namespace"}


def completed(behaviors: Mapping[str, Any], servers: int) -> dict[str, Any]:
    """*behaviors* for this number of *servers*, with the defaults for what they leave out."""
    defaults = {**DEFAULT_BEHAVIORS}
    if servers > 1:
        defaults.update(SEVERAL_SERVERS_BEHAVIORS)
    elif "remove_failed" not in behaviors:  # which sets the failure_limit, too
        defaults.update(ONE_SERVER_BEHAVIORS)
    if servers == 1 and any(map(behaviors.get, _LEAVING_OUT)):
        # A single server that is left out would never be tried again. 0 means never, too.
        defaults["dead_timeout"] = {**defaults, **behaviors}["retry_timeout"] or 1
    return {**defaults, **behaviors}


def forgotten_in_a_clone(behaviors: Mapping[str, Any]) -> dict[str, Any]:
    """What libmemcached forgets of *behaviors* in a clone.

    It takes servers for weighted there only if one of them has a weight above 1.
    """
    if not behaviors.get("ketama_weighted") and behaviors.get("distribution") != _WEIGHTED:
        return {}
    # Both, in the order of the C code: the last one decides.
    names = ("ketama_weighted", "distribution")
    return {name: behaviors[name] for name in names if name in behaviors}


def normalized(behaviors: Mapping[str, Any], binary: bool) -> dict[str, Any]:
    """*behaviors* as pylibmc understands them, under their current names.

    :raises TypeError: a value has a wrong type.
    :raises ValueError: a name is unknown, or a value is out of range or refused.
    """
    if not isinstance(behaviors, Mapping):
        raise TypeError(f"behaviors must be a dict, not {behaviors!r}")
    normal = dict(behaviors)
    if "_retry_timeout" in normal:
        normal["retry_timeout"] = normal.pop("_retry_timeout")
    namespace = normal.pop("namespace", None)
    for name, value in normal.items():
        if name not in _KNOWN:
            raise ValueError(f"unknown behavior names: {name}")
        _check(name, value)
    if namespace is not None:
        # The C code takes only bytes. From other types it reads memory that is not theirs.
        normal["namespace"] = _checked_namespace(namespace, binary)
    return normal


def _checked_namespace(namespace: Any, binary: bool) -> bytes:
    if not isinstance(namespace, (str, bytes)):
        raise TypeError(f"behavior namespace must be str or bytes, not {type(namespace).__name__}")
    raw = encoded(namespace)
    if not 1 <= len(raw) <= _LONGEST_NAMESPACE:
        raise ValueError(
            f"behavior namespace must be 1 to {_LONGEST_NAMESPACE} bytes long, not {len(raw)}:"
            " without one, leave it out"
        )
    if b"\0" in raw:  # libmemcached would cut it there
        raise ValueError(f"behavior namespace must have no NUL byte, unlike {namespace!r}")
    if not (binary or _is_printable_ascii(raw)):
        raise ValueError(
            "behavior namespace must be ASCII without spaces and control characters in the text"
            f" protocol, not {namespace!r}"
        )
    return raw


def _check(name: str, value: Any) -> None:
    choices = _NAMED.get(name)
    # Only ketama_hash may be a number, too: pylibmc shows it as one.
    if choices is not None and not (name == "ketama_hash" and isinstance(value, int)):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return
    if not isinstance(value, int):
        raise TypeError(f"behavior {name} must be int, not {type(value).__name__}")
    if name in _REFUSED and value:
        raise ValueError(f"behavior {name} must be 0, not {value!r}: {_REFUSED[name]}")
    least, most = (-1, HIGHEST_PROTOCOL) if name == "pickle_protocol" else (0, _LARGEST)
    if not least <= value <= most:
        raise ValueError(f"behavior {name} must be {least} to {most}, not {value!r}")
