"""
Whole answers
=============

``get_multi``, and a check that its answer is whole. The C code returns what it has read, and
does not say whether a key is missing in memcached or in the answer.
"""

from __future__ import annotations

from typing import Any

import pylibmc

from . import native
from .failures import MISS, Interrupted, is_own
from .keys import Key, encoded
from .run_again import is_answered
from .silent_errors import silent_error


def get_multi(client: Any, keys: list[Key]) -> dict[Key, Any]:
    """The answer of all servers.

    :raises pylibmc.ProtocolError: it has a key that was not asked for.
    """
    times = 0
    while True:
        times += 1
        _check_depth()
        found: dict[Key, Any] = native.get_multi(client, keys)
        if list(found) == keys:  # the usual case: every key is there, in the order of the keys
            return found
        try:
            "".join(found)  # type: ignore[arg-type]  # a key that was not asked for is bytes
        except TypeError:
            if not found.keys() <= set(keys):
                raise pylibmc.ProtocolError("get_multi got a key it did not ask for") from None
        if len(found) == len(keys) or not any(keys):  # without a key, nothing is sent
            return found
        try:
            is_whole = is_answered(client, "get_multi", times)
        except pylibmc.Error as error:
            if not (found and client._fail_soft and is_own(error)):
                raise
            client._disconnect()
            client._note_failure(error)
            return found
        if is_whole:
            if len(client.addresses) > 1:
                is_whole = _read_rest(client, [key for key in keys if key and key not in found])
            if is_whole or times > 2:
                return found


def _read_rest(client: Any, missing: list[Key]) -> bool:
    """Read what several servers are still to send, with a ``get`` of one of the *missing* keys.

    :return: False if this key is there after all, so that the answer was not whole.

    If a server is late, or a signal comes, the C code returns without its answer and says
    nothing. On a binary connection, a later command would read that answer as its own. A
    ``get`` first reads what is still to come.
    """
    try:
        for key in missing[:1]:
            if native.get(client, encoded(key), MISS) is not MISS:
                return False
            error = silent_error(client, "get")
            if error is not None:
                raise error
    except (pylibmc.Error, RuntimeError) as error:
        if not is_own(error):
            raise
        client._disconnect()
        if not isinstance(error, Interrupted):
            client._note_failure(error)
    return True


def _check_depth() -> None:
    """Raise RecursionError right at the limit, where the C code of ``get_multi`` crashes."""
    _do_nothing()  # two calls deep


def _do_nothing() -> None:
    pass
