"""
How things are measured
=======================

Everything is measured in one process and in rounds: each contender once a round, in
an order that is shuffled anew for every round, medians over the rounds. Whatever
slows the machine down for a while slows all contenders alike.

CPython adapts its bytecode to the types that it sees there. A program has one kind of pool
and a benchmark has them all, so those that share code are measured in rounds of their own.

What takes less than microseconds is timed by :class:`timeit.Timer`: it compiles
the statement into its own loop, so that no function call is measured along with it,
and keeps the garbage collector out. What the loop takes with nothing in it is taken off.
pyperf is no help here: it gives each benchmark processes of its own, one after the
other, which is the opposite of interleaved.
"""

from __future__ import annotations

import random
import timeit
from collections.abc import Iterable, Mapping
from typing import Any, Callable, TypeVar

Result = TypeVar("Result")

#: What a benchmark gives: one figure per round, by contender.
Figures = dict[str, list[float]]
#: ``track(title, number)`` counts that many rounds, and shows how far they are.
Track = Callable[[str, int], Iterable[int]]

BATCH = 0.001  # seconds: long for the clock, short for whatever else the machine does
EMPTY_LOOP = min(timeit.repeat("pass", number=100_000, repeat=20)) / 100_000  # seconds a round


def interleaved(
    contenders: Mapping[str, Callable[[], Result]], rounds: Iterable[int]
) -> dict[str, list[Result]]:
    """Call every contender once a round; what each returned."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in rounds:
        order = list(contenders)
        random.Random(number).shuffle(order)
        for name in order:
            results[name].append(contenders[name]())
    return results


def timer(statement: str, **names: Any) -> Callable[[], float]:
    """What times *statement*, a batch at a call, and returns nanoseconds for one.

    :param names: what the names in the statement stand for.
    """
    clock = timeit.Timer(statement, globals=names)
    number = 100  # the first batch is the warm-up and says how many fill the time
    number = max(1, int(BATCH * number / clock.timeit(number)))
    clock.timeit(number)
    return lambda: (clock.timeit(number) / number - EMPTY_LOOP) * 1e9


def over(figures: Figures, floor: str) -> Figures:
    """What each costs over *floor*: the difference within each round."""
    return {
        name: [mine - bare for mine, bare in zip(rounds, figures[floor])]
        for name, rounds in figures.items()
        if name != floor
    }
