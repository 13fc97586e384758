"""Behaviors: the defaults, what is refused, and what clones and children have of them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pylibmc
import pytest
from forking import FORKS, in_child, succeeds
from harness import DEADLINE, Connections
from interrupts import interrupted_everywhere, tracing

from mcpool_wsgi import Client
from mcpool_wsgi.client import DEFAULT_BEHAVIORS, native
from mcpool_wsgi.client.behaviors import NO_LIMIT
from mcpool_wsgi.devserver import Memcached


def test_namespace_may_be_text(mc: Client) -> None:
    shop, blog = (Client(mc.addresses, {"namespace": f"{name}:"}) for name in ("shop", "blog"))
    shop.set("user", "of the shop")
    assert blog.get("user") is None
    assert mc.get("shop:user") == shop.clone().get("user") == "of the shop"
    blog.set_behaviors({"namespace": "shop:"})
    assert blog.get("user") == "of the shop"
    with pytest.raises(ValueError, match="namespace cannot be None once there is one"):
        blog.set_behaviors({"namespace": None})


def test_namespace_may_be_none(mc: Client) -> None:
    nowhere = Client(mc.addresses, {"namespace": None})
    nowhere.set_behaviors({"namespace": None})
    nowhere.set("key", "value")
    assert mc.get("key") == "value"


def test_behaviors_that_are_refused_are_not_kept(mc: Client) -> None:
    for bad in ({"retry_timeout": "soon"}, {"bogus": 1}, {"namespace": b"a b"}):
        with pytest.raises((TypeError, ValueError)):
            mc.set_behaviors(bad)
    assert mc.renewal_interval == 1
    assert mc.with_servers(mc.addresses).set("x" * 250, 1)


@pytest.mark.parametrize("value", [1, "text"])
def test_unknown_behavior_is_named_whatever_its_value_is(mc: Client, value: Any) -> None:
    with pytest.raises(ValueError, match="bogus"):
        mc.set_behaviors({"bogus": value})
    with pytest.raises(ValueError, match="bogus"):
        Client(mc.addresses, {"bogus": value})


@pytest.mark.parametrize(
    ("name", "value", "binary"),
    [("failure_limit", 0, False), ("hash", "hsieh", False), ("verify_keys", True, True)],
)
def test_behavior_that_libmemcached_refuses_is_named(
    name: str, value: Any, binary: bool, real_memcached: Memcached
) -> None:
    behaviors = {"connect_timeout": 300, name: value}
    with pytest.raises(ValueError, match=f"refuses an option: .*{name}"):
        Client([real_memcached.address], behaviors, binary)
    mc = Client([real_memcached.address], binary=binary)
    with pytest.raises(ValueError, match=f"refuses an option: .*{name}"):
        mc.set_behaviors(behaviors)
    assert mc.behaviors["connect_timeout"] == 500
    assert mc.set("key", "value")


def test_watermark_of_no_answer_is_refused(mc: Client) -> None:
    """libmemcached would run in C for ever, and command_timeout would not end it."""
    with pytest.raises(ValueError, match="_io_msg_watermark must be 1 to 2147483647, not 0"):
        mc.set_behaviors({"_io_msg_watermark": 0})
    mc.set_behaviors({"_io_msg_watermark": 1})
    assert mc.set("key", "value")
    assert mc.get("key") == "value"


def test_behaviors_that_two_threads_set_are_both_kept(mc: Client) -> None:
    """With a no_block that nobody knows of, get_stats() of a binary client hangs."""
    works = [lambda: mc.set_behaviors({"no_block": True}), lambda: mc.set_behaviors({"cas": True})]
    threads = [threading.Thread(target=work) for work in works]
    with mc._turn:  # as if a command lasted
        for thread in threads:
            thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert mc.behaviors["no_block"] == mc.behaviors["cas"] == 1


def test_clone_has_the_behaviors_of_one_moment(
    mc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C code copied a namespace while another thread freed it: keys had a wrong prefix."""
    native_method = pylibmc.client.Client.set_behaviors
    clones = []
    cloning = threading.Thread(target=lambda: clones.append(mc.clone()))

    def set_behaviors(client: Client, behaviors: dict[str, Any]) -> None:
        native_method(client, behaviors)
        if client is mc and "namespace" in behaviors:
            cloning.start()
            cloning.join(0.2)
            assert not clones

    monkeypatch.setattr(pylibmc.client.Client, "set_behaviors", set_behaviors)
    mc.set_behaviors({"namespace": "shop:", "cas": True})
    cloning.join()
    mc.set("user", "of the shop")
    assert clones[0].gets("user")[0] == "of the shop"


@pytest.mark.parametrize("fork", FORKS)
def test_child_uses_a_client_whose_behaviors_another_thread_was_setting(
    mc: Client, fork: Any
) -> None:
    def work() -> None:
        assert mc.clone().get("key") == mc.get("key") == "value"

    mc.set("key", "value")
    may_end, began = threading.Event(), threading.Event()

    def hold() -> None:
        with mc._options_lock:
            began.set()
            may_end.wait(DEADLINE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert began.wait(DEADLINE)
    succeeds(fork(work))
    may_end.set()
    thread.join()


def test_failure_limit_ends_with_a_new_remove_failed_only() -> None:
    mc = Client(["127.0.0.1:1"], {"failure_limit": 4})
    mc.set_behaviors({"cas": True})
    assert mc.behaviors["failure_limit"] == 4
    mc.set_behaviors({"remove_failed": 1})
    assert mc.behaviors["failure_limit"] == 1
    mc.set_behaviors({"remove_failed": 2, "failure_limit": 3})
    assert mc.behaviors["failure_limit"] == 3


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        [{"failure_limit": 4}, {"remove_failed": 1}],
        [{"remove_failed": 1}, {"failure_limit": 4}],
        [{"remove_failed": 1, "failure_limit": 4}, {"failure_limit": 3, "remove_failed": 2}],
        [{"auto_eject": 1}, {"auto_eject": 0}],
    ],
    ids=str,
)
def test_behaviors_that_set_others_are_shown(changes: list[dict[str, int]], servers: int) -> None:
    mc = Client(["127.0.0.1:1", "127.0.0.1:2"][:servers])
    for change in changes:
        mc.set_behaviors(change)
    for client in (mc, mc.clone(), mc.with_servers(mc.addresses)):
        in_c = pylibmc.client.Client.get_behaviors(client)
        names = ("remove_failed", "failure_limit", "auto_eject", "dead_timeout")
        assert {name: in_c[name] for name in names} == {name: mc.behaviors[name] for name in names}


@pytest.mark.slow
@tracing
def test_interrupt_while_behaviors_are_set_leaves_none_that_nobody_knows_of() -> None:
    mc = Client(["/nowhere"], {"auto_eject": True})

    def change() -> None:
        mc.set_behaviors({"no_block": not mc._is_on("no_block")})

    def check() -> None:
        in_c = pylibmc.client.Client.get_behaviors(mc)
        assert {**mc.behaviors, **in_c} == mc.behaviors

    assert interrupted_everywhere(KeyboardInterrupt, change, check) > 200


@pytest.mark.slow
@tracing
def test_interrupt_while_all_servers_fail_leaves_the_failure_limit_as_it_was() -> None:
    """The last attempt of a command ignores it."""
    mc = Client(["127.0.0.1:1", "127.0.0.1:2"])
    limits = []

    def store() -> None:
        with contextlib.suppress(pylibmc.Error):
            mc.set("key", 1)

    def check() -> None:
        limits.append(pylibmc.client.Client.get_behaviors(mc)["failure_limit"])
        for _ in range(3):
            store()

    check()
    assert interrupted_everywhere(KeyboardInterrupt, store, check) > 500
    assert set(limits) == {1}


def test_clone_and_child_have_the_failure_limit_while_a_command_ignores_it() -> None:
    mc = Client(["127.0.0.1:1", "127.0.0.1:2"])
    native.set_behaviors(mc, {"failure_limit": NO_LIMIT})  # as another thread does

    def limit(client: Any) -> Any:
        return pylibmc.client.Client.get_behaviors(client)["failure_limit"]

    def work() -> None:
        assert limit(mc._here()) == 1

    assert limit(mc.clone()) == 1
    succeeds(in_child(work))


@pytest.mark.parametrize("name", ["num_replicas", "_noreply", "buffer_requests"])
def test_behaviors_with_which_answers_are_wrong_are_refused(mc: Client, name: str) -> None:
    with pytest.raises(ValueError, match=f"^behavior {name} must be 0, not 1: "):
        Client(mc.addresses, {name: 1})
    with pytest.raises(ValueError, match=f"^behavior {name} must be 0, not True: "):
        mc.set_behaviors({name: True})
    mc.set_behaviors({name: 0})
    assert mc.set("key", 1)


def test_old_name_of_the_retry_timeout_is_the_same(mc: Client) -> None:
    old = Client(mc.addresses, {"_retry_timeout": 5})
    assert old.renewal_interval == old.behaviors["retry_timeout"] == 5
    old.set_behaviors({"retry_timeout": 7})
    assert old.renewal_interval == old.with_servers(mc.addresses).renewal_interval == 7


def test_new_name_of_the_retry_timeout_comes_before_the_old_one(mc: Client) -> None:
    both = {"_retry_timeout": 5, "retry_timeout": 7}
    assert pylibmc.Client(mc.addresses, dict(both)).behaviors["retry_timeout"] == 7
    assert Client(mc.addresses, both).behaviors["retry_timeout"] == 7


@pytest.mark.parametrize("command", ["get", "incr", "decr", "cas", "incr_multi"])
def test_key_that_verify_keys_refuses_has_the_error_of_pylibmc(mc: Client, command: str) -> None:
    for kind in (pylibmc.Client, Client):
        strict = kind(mc.addresses, {"verify_keys": True, "cas": True})
        arguments = {"cas": ("é", "value", 1), "incr_multi": (["é"],)}.get(command, ("é",))
        with pytest.raises(pylibmc.BadKeyProvided):
            getattr(strict, command)(*arguments)
        assert strict.set("key", "value")
        assert strict.get("key") == "value"


def test_servers_that_fail_are_left_out_after_other_behaviors_are_set(address: str) -> None:
    """The C code is asked, because Client knows only what was chosen."""
    mc = Client([address, "127.0.0.1:1"], {"auto_eject": True})
    mc.set_behaviors({"connect_timeout": 300})
    behaviors = pylibmc.client.Client.get_behaviors(mc)
    assert (behaviors["auto_eject"], behaviors["connect_timeout"]) == (1, 300)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("namespace", ["", b"", 128 * "x", "ü", "a b", b"a\0b", "\udc00", 5])
def test_namespace_that_libmemcached_refuses_is_named(
    real_memcached: Memcached, namespace: Any, binary: bool
) -> None:
    address = real_memcached.address
    if binary and namespace in ("ü", "a b"):
        assert Client([address], {"namespace": namespace}, binary=True).set("key", 1)
        return
    with pytest.raises((TypeError, ValueError), match=r"^behavior namespace must |UTF-8$"):
        Client([address], {"namespace": namespace}, binary=binary)
    mc = Client([address], binary=binary)
    with pytest.raises((TypeError, ValueError), match=r"^behavior namespace must |UTF-8$"):
        mc.set_behaviors({"namespace": namespace})
    assert mc.set("x" * 250, 1)


def test_callers_limits_win(address: str) -> None:
    mc = Client([address], {"_poll_timeout": 250, "tcp_nodelay": False, "retry_timeout": 3})
    assert mc.behaviors["_poll_timeout"] == 250
    assert mc.behaviors["tcp_nodelay"] == 0
    assert mc.clone().renewal_interval == mc.behaviors["retry_timeout"] == 3
    assert Client([address], {"_retry_timeout": 4}).renewal_interval == 4
    mc.behaviors["retry_timeout"] = 5
    assert mc.renewal_interval == 5


def test_defaults_are_what_libmemcached_has(address: str) -> None:
    behaviors = Client([address]).behaviors
    assert {name: behaviors[name] for name in DEFAULT_BEHAVIORS} == {
        name: int(value) for name, value in DEFAULT_BEHAVIORS.items()
    }


def test_two_servers_are_several() -> None:
    assert Client(["127.0.0.1:1", "127.0.0.1:2"]).behaviors["ketama"] == 1
    assert Client(["127.0.0.1:1"]).behaviors["ketama"] == 0


def test_behaviors_are_read_without_a_connection(mc: Client, connections: Connections) -> None:
    assert mc.behaviors["tcp_nodelay"] == 1
    assert connections.count() == 0


def test_behaviors_that_were_read_may_be_set(mc: Client) -> None:
    mc.behaviors = {**mc.behaviors, "ketama_hash": "md5"}
    mc.behaviors = mc.behaviors
    assert mc.set("key", 1)
