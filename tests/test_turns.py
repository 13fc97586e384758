"""One client in several threads: its commands take turns."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import demand, eventually, in_threads, run_python, signal_handler, skip_if_not_spoken
from interrupts import interrupted_everywhere, tracing
from mortal import Mortal

from mcpool_wsgi import Client, CommandEvent

#: How many commands each of eight threads sends. All together sent 300 000 once.
COMMANDS = 2500


def use(mc: Any, name: str) -> None:
    for number in range(COMMANDS):
        key = f"{name}-{number % 50}"
        kind = number % 5
        if kind == 0 or number < 50:
            assert mc.set(key, key)
        elif kind == 1:
            assert mc.get(key) == key
        elif kind == 2:
            assert mc.get_multi([key, f"no-{key}"]) == {key: key}
        elif kind == 3:
            assert mc.gets(key)[0] == key
        else:
            assert mc.delete(f"no-{key}") is False


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_threads_with_one_client_read_their_values(
    address: str, embedded: bool, binary: bool
) -> None:
    skip_if_not_spoken(binary, embedded)
    mc = Client([address], {"cas": True}, binary=binary)
    in_threads([lambda name=name: use(mc, name) for name in "abcdefgh"])  # type: ignore[misc]


@pytest.mark.slow
def test_gets_of_text_keys_reads_no_key_of_another_thread(address: str) -> None:
    """pylibmc reads the key after it has freed it, so other threads' keys were asked for."""

    def work(name: str) -> None:
        mc = Client([address], {"cas": True})
        for number in range(50):
            mc.set(f"{name}-{number}", f"{name}-{number}")
        for number in range(COMMANDS):
            key = f"{name}-{number % 50}"
            assert mc.gets(key)[0] == key

    in_threads([lambda name=name: work(name) for name in "abcdefgh"])  # type: ignore[misc]


class Slow:
    """A value that is pickled for as long as the test wants."""

    begun, end = threading.Event(), threading.Event()

    def __reduce__(self) -> Any:
        self.begun.set()
        self.end.wait(60)
        return int, ()


@contextlib.contextmanager
def busy(address: str, soft: bool, binary: bool) -> Iterator[Any]:
    """A client in a command of another thread that no time limit ends."""
    mc = Client([address], binary=binary, fail_soft=soft, command_timeout=0.2)
    Slow.begun, Slow.end = threading.Event(), threading.Event()

    def work() -> None:
        with contextlib.suppress(pylibmc.Error):  # it took too long
            mc.set("key", Slow())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert Slow.begun.wait(60)
    try:
        yield mc
    finally:
        Slow.end.set()
        thread.join(60)
    mc.disconnect_all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("command", ["get_stats", "flush_all"])
def test_binary_commands_of_servers_wait_for_their_turn_as_others_do(
    address: str, embedded: bool, command: str, soft: bool
) -> None:
    skip_if_not_spoken(True, embedded)
    events: list[CommandEvent] = []
    expected = pytest.raises(pylibmc.Error, match=f"{command} was not sent to {address}")
    with busy(address, soft, binary=True) as mc:
        stop = mc.observe(events.append)
        with contextlib.nullcontext() if soft else expected:
            assert not getattr(mc, command)()
        stop()
    assert [(event.command, event.outcome) for event in events] == [(command, "failure")]


@pytest.mark.parametrize("soft", [False, True])
def test_set_behaviors_waits_for_its_turn_as_commands_do(address: str, soft: bool) -> None:
    """It raises in any case, because no behavior has been set."""
    with busy(address, soft, binary=False) as mc:
        with pytest.raises(pylibmc.Error, match=f"set_behaviors was not sent to {address}"):
            mc.behaviors = {"tcp_nodelay": False}
        assert mc.behaviors["tcp_nodelay"] == 1


@tracing
def test_interrupt_of_a_command_keeps_no_turn(mc: Client) -> None:
    """Otherwise no other thread could use the client any more."""
    mc.set("key", 1)

    def check() -> None:
        keeps_turn = mc._turn._is_owned()
        assert mc.get("key") == 1  # it is in sync again, so the next command does the same
        assert not keeps_turn

    assert interrupted_everywhere(KeyboardInterrupt, lambda: mc.get("key"), check) > 50


@tracing
def test_interrupt_of_a_listeners_command_reaches_the_caller_and_keeps_no_turn(mc: Client) -> None:
    mc.set("key", 1)
    asks = False

    def listener(_: object) -> None:
        nonlocal asks
        if asks:
            asks = False
            mc.get("other")

    def action() -> None:
        nonlocal asks
        asks = True
        mc.get("key")

    def check() -> None:
        nonlocal asks
        asks = False
        keeps_turn = mc._turn._is_owned()
        assert mc.get("key") == 1
        assert not keeps_turn

    stop = mc.observe(listener)
    assert interrupted_everywhere(KeyboardInterrupt, action, check) > 100
    stop()


@tracing
def test_interrupt_of_a_command_that_gets_its_turn_later_keeps_no_turn(mc: Client) -> None:
    def action() -> None:
        mc._deadline = time.monotonic() - 1  # as if another command were running
        mc.get("key")

    def check() -> None:
        assert not mc._turn._is_owned()

    assert interrupted_everywhere(KeyboardInterrupt, action, check) > 50


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_uses_a_client_that_another_thread_was_using(fork: Any, mortal: Mortal) -> None:
    """The thread, and with it the lock, is gone in the child."""
    mc = Client([mortal.address], {"_poll_timeout": 20_000}, command_timeout=30)
    mc.set("key", "value")
    mortal.stop()
    thread = threading.Thread(target=lambda: mc.get("key"))
    thread.start()
    eventually(lambda: mc._deadline < time.monotonic() + 60)

    def work() -> None:
        mortal.go_on()
        assert mc.get("key") == "value"

    succeeds(fork(work))
    thread.join(30)
    assert mc.get("key") == "value"


@pytest.mark.slow
def test_signal_handler_uses_the_client_in_the_middle_of_a_command(mc: Client) -> None:
    mc.set_multi({f"key{number}": number for number in range(20)})
    seen = []

    def handler(*_: object) -> None:
        seen.append(mc.get_multi([f"key{number}" for number in range(20)]))

    dice = random.Random(20090920)
    with signal_handler(signal.SIGALRM, handler):
        for number in range(3000):
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 2e-4))
            assert mc.get(f"key{number % 20}") == number % 20
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(seen) > 10
    assert all(found == {f"key{number}": number for number in range(20)} for found in seen)


@pytest.mark.servers
def test_interpreter_ends_while_a_daemon_thread_is_in_a_command(mortal: Mortal) -> None:
    script = f"""
import threading, time
from mcpool_wsgi import Client
mc = Client([{mortal.address!r}], {{"_poll_timeout": 20_000}}, command_timeout=30)
mc.get("key")
import os, signal
os.kill({mortal.pid}, signal.SIGSTOP)
threading.Thread(target=mc.get, args=("key",), daemon=True).start()
while mc._deadline > time.monotonic() + 60:
    time.sleep(0.001)
"""
    try:
        done = run_python(script)
    finally:
        mortal.go_on()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


GREENLETS = """
import sys
if sys.argv[1] == "patched":
    from gevent import monkey
    monkey.patch_all()
import gevent
from mcpool_wsgi import Client
mc = Client([sys.argv[2]])
class Slow:
    def __init__(self, name):
        self.name = name
    def __reduce__(self):
        gevent.sleep(0)  # another greenlet runs in the middle of a command
        return (str, (self.name,))
def work(name):
    for number in range(100):
        key = f"{name}-{number % 10}"
        assert mc.set(key, Slow(key))
        assert mc.get(key) == key
        gevent.sleep(0)
gevent.joinall([gevent.spawn(work, name) for name in "abcd"], raise_error=True, timeout=30)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["patched", "not patched"])
def test_greenlets_share_a_client(address: str, mode: str) -> None:
    demand("gevent")
    done = run_python(GREENLETS, mode, address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.slow
def test_pylibmc_itself_has_no_turns(address: str) -> None:
    """What this module is about, in a process of its own, because it may crash."""
    script = f"""
import threading, pylibmc
mc = pylibmc.Client([{address!r}], behaviors={{"_poll_timeout": 300}})
wrong = []
def work(name):
    for number in range(2000):
        try:
            mc.set(name, name)
            if mc.get(name) != name:
                wrong.append(name)
        except Exception:
            wrong.append(name)
threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "abcdefgh"]
[thread.start() for thread in threads]
[thread.join(20) for thread in threads]
print(len(wrong))
"""
    done = run_python(script)
    assert done.returncode != 0 or int(done.stdout) > 0
