"""
Pools by name
=============

What the status page and the metrics are given: a pool, several pools, or names for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .pool import Pool


def pools_by_name(pools: Pool | Iterable[Pool] | Mapping[str, Pool]) -> dict[str, Pool]:
    """``{name: pool}``

    :raises TypeError: something in *pools* is no pool of this package, or a name is no str.
    :raises ValueError: two pools have the same name.
    """
    if isinstance(pools, Mapping):
        pairs = list(pools.items())
    else:
        given: Any = pools if isinstance(pools, Iterable) else [pools]
        pairs = [(getattr(pool, "name", ""), pool) for pool in given]
    named: dict[str, Pool] = {}
    for name, pool in pairs:
        if not isinstance(pool, Pool):
            raise TypeError(
                f"a pool must be a ClientPool or a ThreadMappedPool of this package, not {pool!r}"
            )
        if not isinstance(name, str):
            raise TypeError(f"the name of a pool must be a str, not {name!r}")
        if name in named:
            raise ValueError(f"two pools have the name {name!r}: name them, as {{name: pool}}")
        named[name] = pool
    return named
