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
    # longer, and once more at the first answer after all of several servers have failed.
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
_LIMITS = {
    "pickle_protocol": (-1, HIGHEST_PROTOCOL),
    "_io_msg_watermark": (1, _LARGEST),  # with 0, libmemcached reads 2**32 - 1 answers
}
_NAMED = {
    "hash": pylibmc.hashers,
    "ketama_hash": pylibmc.hashers,
    "distribution": pylibmc.distributions,
}
_KETAMA, WEIGHTED = "consistent ketama", "consistent weighted"
#: The distributions without weights, unless a server has one.
UNWEIGHTED = ("consistent", _KETAMA)
#: Up to so many servers, libmemcached has memory for a ring that becomes a weighted one later.
FEW_SERVERS = 6
_KNOWN = {*pylibmc.all_behaviors, "namespace"}


def completed(behaviors: Mapping[str, Any], servers: int) -> dict[str, Any]:
    """*behaviors* for this number of *servers*, with the defaults for what they leave out."""
    defaults = {**DEFAULT_BEHAVIORS}
    if servers > 1:
        defaults.update(SEVERAL_SERVERS_BEHAVIORS)
    elif "remove_failed" not in behaviors:
        defaults.update(ONE_SERVER_BEHAVIORS)
    full = {**defaults, **behaviors}
    if servers == 1 and any(map(behaviors.get, _LEAVING_OUT)):
        # A single server that is left out would never be tried again. 0 means never, too.
        full.setdefault("dead_timeout", full["retry_timeout"] or 1)
    # libmemcached 1.0 sets it together with remove_failed. 1.1 does not.
    if "remove_failed" in full:
        full.setdefault("failure_limit", full["remove_failed"])
    return full


def ring(behaviors: Mapping[str, Any], weights: bool) -> tuple[str, bool]:
    """The distribution that *behaviors* lead to, and whether it spreads keys by weight.

    :param weights: whether a server has a weight above 1.
    """
    # The C code takes ketama, ketama_weighted and distribution, in this order.
    weighted = bool(behaviors.get("ketama_weighted"))
    distribution = (
        _KETAMA if behaviors.get("ketama") or "ketama_weighted" in behaviors else "modula"
    )
    if weighted:
        distribution = WEIGHTED
    distribution = behaviors.get("distribution", distribution)
    if weights and distribution.startswith("consistent"):
        return distribution, True
    return distribution, distribution == WEIGHTED or (weighted and distribution not in UNWEIGHTED)


def normalized(behaviors: Mapping[str, Any], binary: bool) -> dict[str, Any]:
    """*behaviors* as pylibmc understands them, under their current names.

    :raises TypeError: a value has a wrong type.
    :raises ValueError: a name is unknown, or a value is out of range or refused.
    """
    if not isinstance(behaviors, Mapping):
        raise TypeError(f"behaviors must be a dict, not {behaviors!r}")
    normal = dict(behaviors)
    if "_retry_timeout" in normal:
        normal.setdefault("retry_timeout", normal.pop("_retry_timeout"))
    namespace = normal.pop("namespace", None)
    for name, value in normal.items():
        if name not in _KNOWN:
            raise ValueError(f"unknown behavior names: {name}")
        normal[name] = _checked(name, value)
    if namespace is not None:
        # The C code takes only bytes. From other types it reads memory that is not theirs.
        normal["namespace"] = _checked_namespace(namespace, binary)
    return normal


def refusal(error: Exception) -> ValueError:
    """For an *error* of the C code, which names the behavior that it refuses."""
    return ValueError(f"libmemcached refuses an option: {error}")


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


def _checked(name: str, value: Any) -> Any:
    choices = _NAMED.get(name)
    # Only ketama_hash may be a number, too: pylibmc shows it as one.
    if choices is not None and not (name == "ketama_hash" and isinstance(value, int)):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value
    if not issubclass(type(value), int):
        raise TypeError(f"behavior {name} must be int, not {type(value).__name__}")
    exact = int.__int__(value)  # a subclass may have comparisons of its own
    if name in _REFUSED and exact:
        raise ValueError(f"behavior {name} must be 0, not {value!r}: {_REFUSED[name]}")
    least, most = _LIMITS.get(name, (0, _LARGEST))
    if not least <= exact <= most:
        raise ValueError(f"behavior {name} must be {least} to {most}, not {value!r}")
    return exact
