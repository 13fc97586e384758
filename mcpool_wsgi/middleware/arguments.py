"""
Arguments
=========

Checks the arguments of the middleware. A wrong one raises an error when the app is wrapped, and
not at the first request.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable

from ..client import checked_switch
from ..pool import Pool
from .slow import slow_holders
from .third_party import from_any_pool


def check_arguments(
    app: Any, pool: Any, environ_key: Any, lazy: Any, server_timing: Any, on_exhausted: Any
) -> None:
    """Check what does not depend on the kind of pool.

    :raises TypeError: one of them is not what it must be.
    """
    if not callable(app):
        raise TypeError(f"app must be a WSGI app, which can be called, not {app!r}")
    if isinstance(pool, type) or not callable(getattr(pool, "reserve", None)):
        raise TypeError(
            f"pool must have a method reserve() that returns a context manager, and {pool!r} has"
            " none"
        )
    if not isinstance(environ_key, str) or not environ_key:
        raise TypeError(f"environ_key must be a name, not {environ_key!r}")
    checked_switch("lazy", lazy)
    checked_switch("server_timing", server_timing)
    if not callable(on_exhausted):
        raise TypeError(
            f"on_exhausted must be a WSGI app, which can be called, not {on_exhausted!r}"
        )


def reserve_function(pool: Pool, lazy: bool, slow_after: float | None) -> Callable[[], Any]:
    """The function that reserves a client of *pool* for a request.

    :raises TypeError: *pool* cannot reserve lazily, or *slow_after* is no number.
    :raises ValueError: *slow_after* is not positive or not finite.
    """
    reserve = from_any_pool(pool.reserve)
    if lazy:
        pool._reserve_lazily()  # takes nothing, and raises if the pool cannot do it
        if reserve == pool.reserve:
            reserve = pool._reserve_lazily
        else:  # a subclass has its own
            try:
                inspect.signature(pool.reserve).bind(lazy=True)
            except TypeError as error:
                raise TypeError(
                    f"lazy=True needs a pool whose reserve() takes it: {error}"
                ) from None
            reserve = from_any_pool(functools.partial(pool.reserve, lazy=True))
    if slow_after is not None:
        reserve = slow_holders(pool, slow_after).watching(reserve)
    return reserve
