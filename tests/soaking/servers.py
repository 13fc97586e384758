"""Servers, and what happens to them."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import time
from contextlib import ExitStack
from time import monotonic

from hostile import Proxy

from mcpool_wsgi.devserver import memcached

LONGEST_DELAY = 0.7  # seconds by which a proxy delays an answer
LONGEST_OUTAGE = 3.0  # seconds in which no server is there


class Server:
    """A real memcached that keeps its address, and a proxy in front of it."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._port = _free_port()
        self.start()
        self.proxy = Proxy(self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = self._running.enter_context(
            memcached(embedded=False, port=self._port)
        ).process

    def kill(self) -> None:
        self._running.close()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.proxy.close()
        self.kill()


def _free_port() -> int:
    """A port that no outgoing connection gets while the server is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _killed(server: Server, dice: random.Random) -> None:
    server.kill()
    time.sleep(dice.choice([0, dice.random()]))
    server.start()


def _stopped(server: Server, dice: random.Random) -> None:
    server.stop()
    time.sleep(dice.uniform(0, 1.5))
    server.go_on()


def _killed_while_stopped(server: Server, dice: random.Random) -> None:
    server.stop()
    time.sleep(dice.uniform(0, 0.7))
    _killed(server, dice)


def _delayed(server: Server, dice: random.Random) -> None:
    server.proxy.delay = dice.uniform(0.01, LONGEST_DELAY)
    time.sleep(dice.uniform(0.2, 1.5))
    server.proxy.go_on()


def _dripping(server: Server, dice: random.Random) -> None:
    server.proxy.drip = dice.uniform(0.001, 0.45)
    time.sleep(dice.uniform(0.2, 1.5))
    server.proxy.go_on()


def _cut(server: Server, dice: random.Random) -> None:
    server.proxy.cut_after = dice.randrange(1, 3000)
    time.sleep(dice.uniform(0.2, 1))
    server.proxy.cut()
    server.proxy.go_on()


def _unread(server: Server, dice: random.Random) -> None:
    server.proxy.stop_reading()
    time.sleep(dice.uniform(0.1, 1.5))
    server.proxy.go_on()


_EVENTS = (_killed, _stopped, _killed_while_stopped, _delayed, _dripping, _cut, _unread)


def _all_killed(servers: list[Server], dice: random.Random) -> None:
    for server in servers:
        server.kill()
    time.sleep(dice.uniform(0, LONGEST_OUTAGE))
    for server in servers:
        server.start()


def disturb(servers: list[Server], seconds: float, dice: random.Random) -> float:
    """Disturb *servers*, and end with a restart of one of them, or an outage of all.

    :return: when the server was back, in seconds of ``time.monotonic()``.
    """
    end = monotonic() + seconds - LONGEST_DELAY
    while monotonic() < end:
        time.sleep(dice.uniform(0.05, 0.5))
        dice.choice(_EVENTS)(dice.choice(servers), dice)
    time.sleep(LONGEST_DELAY)  # what was delayed has arrived
    if dice.random() < 0.5:
        _killed(dice.choice(servers), dice)
    else:
        _all_killed(servers, dice)
    return monotonic()
