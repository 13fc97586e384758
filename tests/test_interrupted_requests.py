"""Interrupts of requests: real signals at random moments, and exceptions at certain ones."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import Interrupted, generating, raising, responding, serve, wrapping_a_file

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

#: How many requests the signals interrupt.
ROUNDS = 1000


class Own:
    """A response that is its own iterator."""

    def __init__(self) -> None:
        self.left = 2

    def __iter__(self) -> Own:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return b"chunk"


def responding_by_itself(environ: dict[str, Any], start_response: Callable[..., Any]) -> Own:
    start_response("200 OK", [])
    return Own()


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "app",
    [responding([b"chunk"]), generating(b"chunk"), wrapping_a_file, responding_by_itself, raising],
)
def test_signals_at_random_moments_reach_the_caller(mc: Client, app: Any, lazy: bool) -> None:
    """SystemExit comes like this when gunicorn's worker times out."""
    pool = ClientPool(mc, 2)
    middleware = MemcachedPoolMiddleware(app, pool, lazy=lazy)
    raised: list[object] = []
    arrived = reached = 0

    def interrupt(*_: object) -> None:
        nonlocal arrived
        arrived += 1
        raise Interrupted

    dice = random.Random(20090920)
    hook, sys.unraisablehook = sys.unraisablehook, raised.append
    handler = signal.signal(signal.SIGALRM, interrupt)

    def serve_with_a_signal() -> None:
        environ = {"wsgi.file_wrapper": FileWrapper, "wsgi.multithread": True}
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 3e-5))
        with contextlib.suppress(RuntimeError):
            response = middleware(environ, lambda *_: None)  # type: ignore[arg-type]
            try:
                for _ in response:
                    pass
            finally:
                response.close()  # type: ignore[attr-defined]
        for _ in range(100):  # it comes here, or it has been swallowed
            time.sleep(0.001)

    try:
        for _ in range(ROUNDS):
            try:
                serve_with_a_signal()
            except Interrupted:
                reached += 1
    finally:
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = hook
    assert reached == arrived == ROUNDS
    assert raised == []
    assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
    with pool.reserve(block=False), pool.reserve(block=False):
        assert pool.stats().size == 2


class InterruptingEnviron(dict):  # type: ignore[type-arg]
    """An interrupt comes when something has been read or removed for the time number *left*."""

    left = 0

    def get(self, *args: Any) -> Any:
        return self._interrupted(super().get(*args))

    def pop(self, *args: Any) -> Any:
        return self._interrupted(super().pop(*args))

    def _interrupted(self, value: object) -> object:
        self.left -= 1
        if not self.left:
            raise Interrupted
        return value


@pytest.mark.parametrize("outer", [{}, {"mc.client": "outer", "mc.client.release": len}])
@pytest.mark.parametrize("app", [responding([b"chunk"]), generating(b"chunk"), raising])
def test_environ_is_as_before_when_an_interrupt_comes_at_the_end_of_a_request(
    mc: Client, app: Any, outer: dict[str, Any]
) -> None:
    pool = ClientPool(mc, 1)
    interrupts = 0
    while True:
        environ = InterruptingEnviron(outer)
        environ.left = interrupts + 1
        with contextlib.suppress(Interrupted, RuntimeError):
            serve(MemcachedPoolMiddleware(app, pool), environ)
        assert (environ, pool.stats().in_use) == (outer, 0), f"interrupt {interrupts + 1}"
        if environ.left > 0:
            break
        interrupts += 1
    assert interrupts > 3
