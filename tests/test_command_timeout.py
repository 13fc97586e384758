"""command_timeout: no command lasts longer, whatever the server does."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pylibmc
import pytest
from forking import in_child, succeeds
from harness import Connections, eventually, in_spite_of_errors, in_threads, signal_handler
from hostile import Conversation, Proxy, endless, fake, silent
from interrupts import interrupted_everywhere, tracing
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, CommandEvent, PickleForbidden, PooledClient
from mcpool_wsgi.devserver import Memcached

LIMIT = 0.5  # seconds
SLACK = 0.5  # seconds that a busy machine may take to notice

COMMANDS: dict[str, Callable[[Any], Any]] = {
    "get": lambda mc: mc.get("key"),
    "set": lambda mc: mc.set("key", "value"),
    "incr": lambda mc: mc.incr("key"),
    "delete": lambda mc: mc.delete("key"),
    "touch": lambda mc: mc.touch("key", 9),
    "get_multi": lambda mc: mc.get_multi(["key", "other"]),
    "set_multi": lambda mc: mc.set_multi({"key": 1, "other": 2}),
    "incr_multi": lambda mc: mc.incr_multi([f"key{number}" for number in range(20)]),
    "delete_multi": lambda mc: mc.delete_multi([f"key{number}" for number in range(20)]),
    "get_stats": lambda mc: mc.get_stats(),
    "flush_all": lambda mc: mc.flush_all(),
}


@contextlib.contextmanager
def within_the_limit(limit: float = LIMIT) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < limit + SLACK


def drips(conversation: Conversation) -> None:
    conversation.request()
    conversation.send(b"VALUE key 16 100\r\n" + b"x" * 1000, interval=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("script", [drips, silent])
def test_slow_server_is_given_up_in_time(script: Any, command: str, soft: bool) -> None:
    with fake(script) as server:
        mc = Client(
            [server.address], {"_poll_timeout": 5000}, fail_soft=soft, command_timeout=LIMIT
        )
        expected = contextlib.nullcontext() if soft else pytest.raises(pylibmc.Error)
        with within_the_limit(), expected:
            assert COMMANDS[command](mc) in (None, False, [], {}, ["key", "other"], [b"key"])


@pytest.mark.slow
def test_command_whose_answer_has_no_end_ends_within_the_limit() -> None:
    with fake(endless(b"STAT a b\r\n" * 100, 0.01)) as server:
        mc = Client([server.address], command_timeout=LIMIT)
        with within_the_limit(), pytest.raises(pylibmc.Error, match="command_timeout"):
            mc.get_stats()


@pytest.mark.slow
def test_error_says_what_ended_the_command() -> None:
    with fake(drips) as server:
        mc = Client([server.address], command_timeout=LIMIT)
        with pytest.raises(pylibmc.Error, match=rf"get .*command_timeout.*{server.address}"):
            mc.get("key")


def answers_late(conversation: Conversation) -> None:
    while conversation.request():
        conversation.pause(LIMIT * 0.8)
        conversation.send(b"VALUE key 16 5\r\nvalue\r\nEND\r\n")


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_wait_for_the_commands_of_other_threads_has_the_same_limit(soft: bool) -> None:
    events: list[CommandEvent] = []

    def work() -> None:
        expected = contextlib.nullcontext() if soft else contextlib.suppress(pylibmc.Error)
        with within_the_limit(), expected:
            assert mc.get("key") in ("value", None)

    with fake(answers_late) as server:
        mc = Client([server.address], fail_soft=soft, command_timeout=LIMIT)
        mc.observe(events.append)
        in_threads([work] * 6)
    text = f"get was not sent to {server.address}: other threads used this client"
    not_sent = [event for event in events if str(event.error).startswith(text)]
    assert len(not_sent) >= 4  # one is answered, and one may be sent too late for an answer
    assert {event.outcome for event in not_sent} == {"failure"}


@pytest.mark.slow
def test_wait_of_threads_that_never_pause_has_the_same_limit() -> None:
    """A thread that came between two commands of others waited for all of them."""

    def answers(conversation: Conversation) -> None:
        while conversation.request():
            conversation.pause(LIMIT * 0.1)
            conversation.send(b"VALUE key 16 5\r\nvalue\r\nEND\r\n")

    def work() -> None:
        for _ in range(5):
            with within_the_limit(), contextlib.suppress(pylibmc.Error):
                assert mc.get("key") == "value"

    with fake(answers) as server:
        mc = Client([server.address], command_timeout=LIMIT)
        in_threads([work] * 20)


@pytest.mark.slow
def test_server_does_not_count_as_failed_because_a_command_has_waited() -> None:
    limit = 2 * LIMIT
    late = threading.Event()

    def answers(conversation: Conversation) -> None:
        while conversation.request():
            if late.is_set():
                conversation.pause(limit * 0.8)
            conversation.send(b"VALUE key 16 5\r\nvalue\r\nEND\r\n")

    with fake(answers) as server:
        mc = Client([server.address], {"_poll_timeout": 5000}, command_timeout=limit)
        assert mc.get("key") == "value"
        late.set()
        thread = threading.Thread(target=lambda: mc.get("key"))
        thread.start()
        eventually(lambda: mc._deadline < math.inf)
        with pytest.raises(pylibmc.Error, match="was not sent"):
            mc.get("key")
        thread.join(30)
        late.clear()
        assert mc.get("key") == "value"


@tracing
@pytest.mark.parametrize("works", [True, False])
def test_interrupt_leaves_no_deadline(works: bool, request: pytest.FixtureRequest) -> None:
    """Or all later commands would count as those of a signal handler, and connect anew."""
    client = request.getfixturevalue("mc") if works else Client(["127.0.0.1:1"])

    def action() -> None:
        with contextlib.suppress(pylibmc.Error):
            client.get("key")

    def check() -> None:
        assert client._deadline == math.inf

    assert interrupted_everywhere(KeyboardInterrupt, action, check) > 50


def test_deadline_that_an_interrupt_has_left_ends_with_the_next_command(
    mc: Client, connections: Connections
) -> None:
    """An interrupt may come right before the deadline is taken back."""
    assert mc.set("key", "value")
    mc._deadline = time.monotonic() - 1
    assert mc.get("key") == "value"
    assert mc._deadline == math.inf
    assert mc.get("key") == "value"
    opened = connections.opened()
    assert mc.get("key") == "value"
    assert connections.opened() == opened


@pytest.mark.slow
@pytest.mark.parametrize("sleep", [0, LIMIT + 0.1], ids=["slow answer", "slow handler"])
def test_signal_handler_uses_the_client_past_the_deadline(sleep: float) -> None:
    """The interrupted command has a limit when it goes on."""
    asked = []

    def script(conversation: Conversation) -> None:
        while key := conversation.request().split()[-1]:
            asked.append(key)
            if key == b"handler":
                conversation.pause(LIMIT - 0.1)
                conversation.send(b"VALUE handler 16 1\r\nx\r\n")
            elif asked.count(key) == 1:  # it is asked again after the first miss
                conversation.pause(LIMIT - 0.2)
            else:
                conversation.send(b"VALUE key 16 100\r\n" + b"x" * 1000, interval=0.1)
            conversation.send(b"END\r\n")

    def handle(number: int, frame: object) -> None:
        time.sleep(sleep)
        assert mc.get("handler") == "x"

    with fake(script) as server:
        mc = Client([server.address], {"_poll_timeout": 5000}, command_timeout=LIMIT)
        began = time.monotonic()
        with signal_handler(signal.SIGALRM, handle):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(pylibmc.Error, match="command_timeout"):
                mc.get("key")
        assert time.monotonic() - began - sleep < 2 * LIMIT + SLACK


@pytest.mark.slow
def test_command_whose_deadline_passes_in_a_signal_handler_ends_soon_after_it() -> None:
    """The watchdog has looked meanwhile, and waits for the end of the handler's command."""
    limit = 4 * LIMIT
    asked = []
    ends: list[float] = []

    def script(conversation: Conversation) -> None:
        while key := conversation.request().split()[-1]:
            asked.append(key)
            if key == b"handler":
                conversation.pause(0.2)
                conversation.send(b"VALUE handler 16 1\r\nx\r\n")
            elif asked.count(key) == 1:  # it is asked again after the first miss
                conversation.pause(limit - 0.1)
            else:
                conversation.send(b"VALUE key 16 100\r\n" + b"x" * 1000, interval=0.1)
            conversation.send(b"END\r\n")

    def handle(number: int, frame: object) -> None:
        assert mc.get("handler") == "x"
        ends.append(time.monotonic())

    with fake(script) as server:
        waits = {"_poll_timeout": 5000, "receive_timeout": 5_000_000}
        mc = Client([server.address], waits, command_timeout=limit)
        with signal_handler(signal.SIGALRM, handle):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(pylibmc.Error, match="command_timeout"):
                mc.get("key")
        assert time.monotonic() - ends[0] < 2 * SLACK


@pytest.mark.slow
def test_many_servers_that_hang_do_not_add_up() -> None:
    with ExitStack() as servers:
        addresses = [servers.enter_context(fake(silent)).address for _ in range(20)]
        mc = Client(addresses, command_timeout=LIMIT)
        keys = [f"key{number}" for number in range(200)]
        for _ in range(3):
            with within_the_limit(), contextlib.suppress(pylibmc.Error):
                mc.get_multi(keys)
            with within_the_limit(), contextlib.suppress(pylibmc.Error):
                mc.set_multi(dict.fromkeys(keys, 1))


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("command", ["incr_multi", "delete_multi"])
def test_keys_of_servers_that_hang_do_not_add_up(command: str, soft: bool) -> None:
    with ExitStack() as servers:
        addresses = [servers.enter_context(fake(silent)).address for _ in range(3)]
        mc = Client(addresses, {"_poll_timeout": 5000}, fail_soft=soft, command_timeout=LIMIT)
        expected = contextlib.nullcontext() if soft else pytest.raises(pylibmc.Error)
        with within_the_limit(), expected:
            assert not COMMANDS[command](mc)


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("command", ["incr_multi", "delete_multi"])
def test_more_keys_than_the_limit_allows_are_no_failure_of_the_server(
    address: str, command: str, soft: bool
) -> None:
    # Long, because the last key must be answered within a tenth of it on a busy machine, too.
    pool = ClientPool(Client([address], fail_soft=soft, command_timeout=1.5), 1)
    keys = ["key"] * 400_000 + ["last"]
    Client([address]).set_multi(dict.fromkeys(keys, 1))
    with pool.reserve() as mc:
        expected = contextlib.nullcontext() if soft else pytest.raises(pylibmc.Error, match="last")
        with expected:
            assert not getattr(mc, command)(keys)
        assert mc.get(keys[-1]) == 1
    assert pool.stats().failures == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["incr_multi", "delete_multi"])
def test_slow_server_is_not_sent_a_key_for_which_the_time_is_too_short(command: str) -> None:
    def script(conversation: Conversation) -> None:
        while request := conversation.request():
            conversation.pause(0.02)
            answers = {b"incr": b"2\r\n", b"delete": b"DELETED\r\n", b"get": b"END\r\n"}
            conversation.send(answers[request.split()[0]])

    with fake(script) as server:
        pool = ClientPool(Client([server.address], command_timeout=1), 1)
        for _ in range(2):
            with pool.reserve() as mc:
                with pytest.raises(pylibmc.Error, match="before its last key"):
                    getattr(mc, command)([f"key{number}" for number in range(100)])
                assert mc.get("key") is None
        assert pool.stats().failures == 0


@pytest.mark.slow
def test_search_for_the_key_that_is_pickled_has_the_limit_of_one_command() -> None:
    keys = [f"key{number}" for number in range(15)]

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"VALUE key14 1 1\r\nx\r\nEND\r\n")
        while conversation.request():
            conversation.pause(LIMIT / 3)
            conversation.send(b"END\r\n")

    with fake(script) as server:
        mc = Client([server.address], allow_pickle=False, command_timeout=LIMIT)
        with within_the_limit(), pytest.raises(PickleForbidden):
            mc.get_multi(keys)


@pytest.mark.slow
def test_search_for_the_key_that_is_pickled_ends_with_the_limit_of_its_command() -> None:
    limit = 4 * LIMIT

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.pause(limit * 0.6)
        conversation.send(b"VALUE key 1 1\r\nx\r\nEND\r\n")
        conversation.wait()

    with fake(script) as server:
        waits = {"_poll_timeout": 5000, "receive_timeout": 5_000_000}
        mc = Client([server.address], waits, allow_pickle=False, command_timeout=limit)
        with within_the_limit(limit), pytest.raises(PickleForbidden):
            mc.get_multi(["key", "other"])


class SlowToRead:
    def __reduce__(self) -> Any:
        return (_slowly, ("value",))


def _slowly(value: str) -> str:
    time.sleep(LIMIT * 2)
    return value


@pytest.mark.slow
def test_value_that_came_in_time_is_returned_though_unpickling_takes_longer(mc: Client) -> None:
    """Its server has not failed, and does not rest. The connection was shut down meanwhile."""
    limited = Client(mc.addresses, command_timeout=LIMIT)
    assert limited.set_multi({"slow": SlowToRead(), "key": "value"}) == []
    assert limited.get("slow") == "value"
    assert limited.get("key") == "value"
    assert limited.get_multi(["slow", "key"]) == {"slow": "value", "key": "value"}
    assert limited.get("missing") is None


@pytest.mark.servers
def test_client_works_again_when_a_stopped_server_goes_on(mortal: Mortal) -> None:
    pool = ClientPool(Client([mortal.address], command_timeout=LIMIT), 2)
    with pool.reserve() as mc:
        assert mc.set("key", "value")
    mortal.stop()
    for _ in range(4):
        with pool.reserve() as mc, within_the_limit(), contextlib.suppress(pylibmc.Error):
            mc.get("key")
    mortal.go_on()

    cache = PooledClient(pool)
    eventually(lambda: in_spite_of_errors(cache.get, "key") == "value")


@pytest.mark.slow
def test_client_works_again_when_a_slow_network_recovers(server_connections: Connections) -> None:
    with contextlib.closing(Proxy(server_connections.address)) as proxy:
        mc = Client([proxy.address], command_timeout=LIMIT)
        assert mc.set("key", "value" * 100)
        proxy.drip = 0.1
        with within_the_limit(), pytest.raises(pylibmc.Error):
            mc.get("key")
        proxy.go_on()
        eventually(lambda: in_spite_of_errors(mc.get, "key") == "value" * 100)


@pytest.mark.slow
def test_command_that_is_quick_is_left_alone(mc: Client) -> None:
    quick = Client(mc.addresses, command_timeout=LIMIT)
    end = time.monotonic() + 3 * LIMIT
    while time.monotonic() < end:
        assert quick.set("key", "value")
        assert quick.get("key") == "value"


@pytest.mark.slow
def test_clones_and_clients_for_other_servers_have_the_limit() -> None:
    with fake(silent) as server:
        master = Client([server.address], command_timeout=LIMIT)
        for mc in (master.clone(), master.with_servers([server.address])):
            with within_the_limit(), pytest.raises(pylibmc.Error):
                mc.get("key")


@pytest.mark.parametrize("wrong", [None, 0, -1, float("nan"), float("inf"), "1", True])
def test_limit_is_a_positive_number(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="command_timeout"):
        Client(["127.0.0.1"], command_timeout=wrong)


class Same(Client):
    """All of them are equal, and none can be in a set."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same)


@pytest.mark.slow
def test_each_of_several_equal_clients_has_its_limit() -> None:
    with fake(drips) as server:
        clients = [Same([server.address], command_timeout=LIMIT) for _ in range(3)]
        for client in clients:
            with within_the_limit(), pytest.raises(pylibmc.Error, match="command_timeout"):
                client.get("key")


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("command", ["get_stats", "flush_all"])
def test_command_of_a_binary_client_that_does_not_block_ends(
    real_memcached: Memcached, command: str, later: bool, servers: int
) -> None:
    """libmemcached looks for the end of the statistics for ever. No shutdown ends that."""

    def work() -> None:
        behaviors = {"no_block": True}
        mc = Client([real_memcached.address] * servers, {} if later else behaviors, binary=True)
        mc.behaviors.update(behaviors)
        assert mc.set("key", "value")
        assert COMMANDS[command](mc)
        assert mc.get("key") == (None if command == "flush_all" else "value")
        assert mc.behaviors["no_block"] == 1

    succeeds(in_child(work))


@pytest.mark.parametrize("command", ["get_stats", "flush_all"])
@pytest.mark.parametrize("refused", [{"remove_failed": 0}, {"distribution": "consistent max"}])
def test_behaviors_that_the_c_code_refuses_change_nothing(
    real_memcached: Memcached, command: str, refused: dict[str, Any]
) -> None:
    """It sets one after the other. With a no_block that nobody knows of, the command hangs."""

    def work() -> None:
        mc = Client([real_memcached.address], binary=True)
        with pytest.raises(ValueError, match="refuses an option"):
            mc.set_behaviors({"no_block": True, **refused})
        assert mc.behaviors["no_block"] == 0
        assert COMMANDS[command](mc)

    succeeds(in_child(work))


@pytest.mark.parametrize("command", ["get_stats", "flush_all"])
def test_command_ends_if_another_thread_sets_no_block_while_it_waits_for_its_turn(
    real_memcached: Memcached, command: str
) -> None:
    def work() -> None:
        mc = Client([real_memcached.address], binary=True)
        assert mc.set("key", "value")
        thread = threading.Thread(target=COMMANDS[command], args=(mc,), daemon=True)
        with mc._turn:
            thread.start()
            time.sleep(0.1)
            mc.set_behaviors({"no_block": True})
        thread.join(5)
        assert not thread.is_alive()

    succeeds(in_child(work))
