"""An interrupt at every point: an exception between any two bytecodes of this package."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Callable

import greenlet
import pytest
from harness import no_collection

from mcpool_wsgi import Client, InvalidKey

#: Opcodes that do nothing. CPython 3.14 has the second one.
NOTHING = {dis.opmap.get("NOP"), dis.opmap.get("NOT_TAKEN")}


class Interrupt:
    """Raises *error* at the opcode number *at* that is run in this package's code."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        self.error = error
        self.left = at

    def __enter__(self) -> Interrupt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if "/mcpool_wsgi/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        # Before a try block in another one there is an opcode that belongs to neither. It does
        # nothing, and no signal handler runs there.
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] not in NOTHING:
            self.left -= 1
            if self.left == 0:
                self._interrupt()
        return self._trace

    def _interrupt(self) -> None:
        raise self.error


class SignalHandler(Interrupt):
    """Calls *handler* there, which may use clients and pools, and goes on."""

    def __init__(self, handler: Callable[[], object], at: int) -> None:
        super().__init__(BaseException, at)
        self._handler = handler

    def _interrupt(self) -> None:
        self._handler()


tracing = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="CPython up to 3.10 crashes when a trace function raises"
)
INTERRUPTS = [SystemExit, KeyboardInterrupt, GeneratorExit, greenlet.GreenletExit]


def interrupted_everywhere(
    error: type[BaseException],
    action: Callable[[], object],
    check: Callable[[], None],
    *,
    in_finalisers: bool = False,
) -> int:
    """Do *action* again and again, interrupted at its first opcode, at its second and so on.

    Every interrupt reaches the caller. Only *in_finalisers* it cannot: nobody can catch what a
    finaliser raises.

    :return: how often it was interrupted.
    """
    at = 0
    with no_collection():
        while True:
            at += 1
            reached = False
            with finalisers_raise(error if in_finalisers else None):
                try:
                    with Interrupt(error, at) as interrupt:
                        list(_in_a_generator(action))
                except error:
                    reached = True
            assert sys.exc_info()[1] is None, "an exception, and what it refers to, is kept"
            if interrupt.left > 0:
                return at
            assert reached or in_finalisers, f"the interrupt at opcode {at} was swallowed"
            check()


def _in_a_generator(action: Callable[[], object]) -> Iterator[object]:
    """Do *action* where CPython ends the handling of all exceptions afterwards.

    An interrupt at the begin or the end of an except block would leave its exception, with the
    clients in its frames, as the one that is being handled, until the thread ends.
    """
    yield action()


def _warm_up() -> None:
    """What happens once per process happens before the first interrupt.

    A command looks for the sockets of libmemcached. CPython 3.12.1 tells nothing of opcodes the
    first time that they are traced.
    """
    Client(["127.0.0.1:1"], fail_soft=True).get("key")
    with Interrupt(SystemExit, sys.maxsize):
        InvalidKey("key", "is traced")


_warm_up()


@contextmanager
def finalisers_raise(error: type[BaseException] | None) -> Iterator[None]:
    """Finalisers raise nothing but *error*, or nothing at all."""
    raised: list[BaseException | None] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda args: raised.append(args.exc_value)
    try:
        yield
    finally:
        sys.unraisablehook = before
        assert all(error and isinstance(one, error) for one in raised), raised
