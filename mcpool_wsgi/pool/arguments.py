"""
Arguments
=========

Checks the arguments of a pool.
"""

from __future__ import annotations

import operator
from typing import Any


def master_of(mc: Any) -> Any:
    """A client like *mc* that nobody uses while it is cloned.

    :raises TypeError: *mc* is no client.
    """
    if isinstance(mc, type) or not callable(getattr(mc, "clone", None)):
        hint = ": from_servers() takes servers" if isinstance(mc, (str, list, tuple)) else ""
        raise TypeError(f"mc must be a client, which the pool clones, not {mc!r}{hint}")
    return mc.clone()


def checked_n_slots(n_slots: int, name: str = "n_slots") -> int:
    """*n_slots*.

    :param name: of the argument, for errors.
    :raises TypeError: it is no int.
    :raises ValueError: it is not positive.
    """
    try:
        number = operator.index(n_slots)
    except TypeError:
        number = None
    if number is None or isinstance(n_slots, bool):
        raise TypeError(f"{name} must be an int, not {n_slots!r}")
    if number < 1:
        raise ValueError(
            f"{name} must be a positive number, not {number}: use the number of threads that"
            " serve requests"
        )
    return number
