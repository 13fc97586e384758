"""Client: keys before the wire, connections in sync, time limits."""

from __future__ import annotations

import contextlib
import inspect
import pickle
import threading
import time
from inspect import Parameter
from typing import Any, Callable

import pylibmc
import pytest
from forking import in_child, succeeds
from harness import Connections
from hostile import Conversation, answers, fake, silent
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupts import interrupted_everywhere, tracing
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey, PooledClient
from mcpool_wsgi.client import DEFAULT_BEHAVIORS, native
from mcpool_wsgi.client.behaviors import NO_LIMIT
from mcpool_wsgi.devserver import Memcached

KEYWORD_ONLY = Parameter.KEYWORD_ONLY
#: Every operation that takes a key, with the rest of its arguments.
ONE_KEY: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda mc, key: mc.get(key),
    "gets": lambda mc, key: mc.gets(key),
    "set": lambda mc, key: mc.set(key, 1),
    "add": lambda mc, key: mc.add(key, 1),
    "replace": lambda mc, key: mc.replace(key, 1),
    "append": lambda mc, key: mc.append(key, "1"),
    "prepend": lambda mc, key: mc.prepend(key, "1"),
    "cas": lambda mc, key: mc.cas(key, 1, 1),
    "incr": lambda mc, key: mc.incr(key),
    "decr": lambda mc, key: mc.decr(key),
    "touch": lambda mc, key: mc.touch(key, 10),
    "delete": lambda mc, key: mc.delete(key),
    "__getitem__": lambda mc, key: mc[key],
    "__setitem__": lambda mc, key: mc.__setitem__(key, 1),
    "__delitem__": lambda mc, key: mc.__delitem__(key),
    "__contains__": lambda mc, key: key in mc,
}
#: Every operation that takes keys and a prefix.
MANY_KEYS: dict[str, Callable[..., Any]] = {
    "get_multi": lambda mc, key, **prefix: mc.get_multi(["ok", key], **prefix),
    "set_multi": lambda mc, key, **prefix: mc.set_multi({"ok": 1, key: 1}, **prefix),
    "add_multi": lambda mc, key, **prefix: mc.add_multi({"ok": 1, key: 1}, **prefix),
    "incr_multi": lambda mc, key, **prefix: mc.incr_multi(["ok", key], **prefix),
    "delete_multi": lambda mc, key, **prefix: mc.delete_multi(["ok", key], **prefix),
}
#: What takes no key, or does not use it on the wire.
NO_KEY = {
    "behaviors",
    "behaviours",
    "clone",
    "deserialize",
    "disconnect_all",
    "flush_all",
    "get_behaviors",
    "get_stats",
    "hash",
    "serialize",
    "set_behaviors",
}
BAD_KEYS = [
    "a b",
    "a\tb",
    "a\0b",
    "a\x7fb",
    "a\r\nget b",
    "a\nb",
    b"a b",
    b"a\r\nget b",
    " ",
    "é b",
    "x" * 251,
    b"x" * 251,
    "é" * 126,
    "\ud800",
]


@pytest.fixture
def cas_mc(address: str) -> Client:
    return Client([address], {"cas": True})


# -- Keys


def test_every_operation_of_pylibmc_is_covered() -> None:
    mapping = {name for name in dir(pylibmc.Client) if name.endswith("item__")} | {"__contains__"}
    public = {name for name in dir(pylibmc.Client) if not name.startswith("_")}
    assert public | mapping == {*ONE_KEY, *MANY_KEYS, *NO_KEY}


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
@pytest.mark.parametrize("operation", ONE_KEY)
def test_bad_key_is_refused_before_the_wire(
    cas_mc: Client, connections: Connections, operation: str, key: Any
) -> None:
    with pytest.raises(InvalidKey):
        ONE_KEY[operation](cas_mc, key)
    assert connections.count() == 0


@pytest.mark.parametrize("again", ["a", b"a"])
@pytest.mark.parametrize("kind", ["Client", "PooledClient"])
def test_key_that_is_given_twice_counts_twice(address: str, again: Any, kind: str) -> None:
    ours = Client([address])
    mc: Any = ours if kind == "Client" else PooledClient(ClientPool(ours, 1))
    for each in (mc, pylibmc.Client([address])):
        for key_prefix in ("", "p"):
            each.set_multi({"a": 1, "b": 1}, key_prefix=key_prefix)
            each.incr_multi(["a", "b", again], key_prefix=key_prefix, delta=2)
            assert each.get_multi(["a", "b"], key_prefix=key_prefix) == {"a": 5, "b": 3}
            assert each.delete_multi(["a", again], key_prefix=key_prefix) is False  # not there
            assert each.get_multi(["a", "b"], key_prefix=key_prefix) == {"b": 3}


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
@pytest.mark.parametrize("operation", MANY_KEYS)
def test_bad_key_among_many_is_refused_before_the_wire(
    cas_mc: Client, connections: Connections, operation: str, key: Any
) -> None:
    for prefix in ({}, {"key_prefix": "p"}, {"key_prefix": b"p"}):
        with pytest.raises(InvalidKey):
            MANY_KEYS[operation](cas_mc, key, **prefix)
    with pytest.raises(InvalidKey):
        MANY_KEYS[operation](cas_mc, "fine", key_prefix=key)
    assert connections.count() == 0


@pytest.mark.parametrize("key", ["", b""])
@pytest.mark.parametrize("namespace", [None, "app:"])
@pytest.mark.parametrize("operation", ONE_KEY)
def test_empty_key_is_a_miss_as_with_pylibmc_and_is_not_sent(
    address: str, connections: Connections, operation: str, namespace: str | None, key: Any
) -> None:
    behaviors = {"cas": True, "namespace": namespace and namespace.encode()}
    theirs = pylibmc.Client([address], behaviors={k: v for k, v in behaviors.items() if v})
    mc = Client([address], behaviors)
    try:
        answer = ONE_KEY[operation](theirs, key)
    except pylibmc.BadKeyProvided:
        with pytest.raises(InvalidKey, match="'' is empty"):
            ONE_KEY[operation](mc, key)
    except KeyError:
        with pytest.raises(KeyError):
            ONE_KEY[operation](mc, key)
    else:
        assert ONE_KEY[operation](mc, key) == answer
    assert connections.count() == 0


@pytest.mark.parametrize("key", ["", b""])
def test_empty_key_is_a_miss_after_an_error(cas_mc: Client, key: Any) -> None:
    for read in (cas_mc.get, cas_mc.gets, lambda key: cas_mc.get_multi([key])):
        assert cas_mc.set("text", "abc")
        with pytest.raises(pylibmc.ClientError):
            cas_mc.incr("text")
        assert read(key) in (None, (None, None), {})


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("binary", [False, True])
def test_empty_key_among_many_is_left_out(
    real_memcached: Memcached, servers: int, binary: bool
) -> None:
    real = real_memcached.address
    addresses = [real, real.replace("127.0.0.1", "localhost")][:servers]
    mc = Client(addresses, binary=binary)
    mc.flush_all()
    for empty in ("", b""):
        assert mc.set_multi({empty: 1, "a": 2}) == [empty]
        assert mc.get_multi([empty, "a"]) == mc.get_multi(["a", empty, "b"]) == {"a": 2}
        assert mc.get_multi([empty]) == {}
        assert mc.add_multi({empty: 1, "a": 3}) == [empty, "a"]
        with pytest.raises(InvalidKey, match="'' is empty"):
            mc.incr_multi(["a", empty])
        assert mc.get("a") == 2
        assert mc.set_multi({empty: 5}, key_prefix="p") == []
        assert mc.get_multi([empty, "a"], key_prefix="p") == {empty: 5}
        assert mc.delete_multi([empty, "a"]) is False
        assert mc.get("a") is None


@pytest.mark.parametrize("operation", MANY_KEYS)
def test_prefix_counts_for_the_length(cas_mc: Client, operation: str) -> None:
    fine, too_long = "x" * 240, "x" * 241
    cas_mc.set_multi({"ok": 1, fine: 1}, key_prefix="prefix____")
    MANY_KEYS[operation](cas_mc, fine, key_prefix="prefix____")
    with pytest.raises(InvalidKey, match="251 bytes where 250"):
        MANY_KEYS[operation](cas_mc, too_long, key_prefix="prefix____")


@pytest.mark.parametrize("args", ["items\r\nget k1", "x\r\nflush_all", "a\0"])
def test_statistics_ask_for_no_command(mc: Client, args: str) -> None:
    with pytest.raises(InvalidKey):
        mc.get_stats(args)
    mc.get_stats("items")


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


def test_subclass_with_a_hash_of_its_own_stores_in_binary(real_memcached: Memcached) -> None:
    class Hashed(Client):
        def hash(self, key: str | bytes) -> int:
            return 2**31

    binary = Hashed([real_memcached.address], binary=True)
    assert binary.add("key", "value")
    assert binary.add("key", "other") is False
    assert binary.add_multi({"key": "other"}) == ["key"]


def test_behaviors_that_are_refused_are_not_kept(mc: Client) -> None:
    for bad in ({"retry_timeout": "soon"}, {"bogus": 1}, {"namespace": b"a b"}):
        with pytest.raises((TypeError, ValueError)):
            mc.set_behaviors(bad)
    assert mc.renewal_interval == 1
    assert mc.with_servers(mc.addresses).set("x" * 250, 1)


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


@tracing
def test_interrupt_while_behaviors_are_set_leaves_none_that_nobody_knows_of() -> None:
    mc = Client(["/nowhere"], {"auto_eject": True})

    def change() -> None:
        mc.set_behaviors({"no_block": not mc._is_on("no_block")})

    def check() -> None:
        in_c = pylibmc.client.Client.get_behaviors(mc)
        assert {**mc.behaviors, **in_c} == mc.behaviors

    assert interrupted_everywhere(KeyboardInterrupt, change, check) > 200


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


def test_namespace_counts_for_the_length(address: str) -> None:
    mc = Client([address], {"namespace": b"app:"})
    for client in (mc, mc.clone()):
        assert client.set("x" * 246, 1)
        with pytest.raises(InvalidKey, match="247 bytes where 246"):
            client.set("x" * 247, 1)
    assert Client([address]).get("app:" + "x" * 246) == 1


def test_servers_that_fail_are_left_out_after_other_behaviors_are_set(address: str) -> None:
    """The C code is asked, because Client knows only what was chosen."""
    mc = Client([address, "127.0.0.1:1"], {"auto_eject": True})
    mc.set_behaviors({"connect_timeout": 300})
    behaviors = pylibmc.client.Client.get_behaviors(mc)
    assert (behaviors["auto_eject"], behaviors["connect_timeout"]) == (1, 300)


def test_client_for_other_servers_has_the_options_of_this_one() -> None:
    mc = Client(["127.0.0.1:1"], {"connect_timeout": 300}, fail_soft=True)
    other = mc.with_servers(["127.0.0.1:2"])
    assert other.behaviors["connect_timeout"] == 300
    assert other.get("key") is None


def test_client_for_other_servers_may_have_a_time_of_its_own() -> None:
    with fake(silent) as server:
        mc = Client(["127.0.0.1:1"], command_timeout=60)
        with pytest.raises(pylibmc.Error, match=r"command_timeout, 0\.25 s"):
            mc.with_servers([server.address], command_timeout=0.25).get("key")


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


@pytest.mark.parametrize("no_key", [1, None, ("a",), bytearray(b"a"), memoryview(b"a b")])
def test_what_is_neither_str_nor_bytes_is_refused(mc: Client, no_key: Any) -> None:
    for operation in ONE_KEY.values():
        with pytest.raises(TypeError, match="str or bytes"):
            operation(mc, no_key)


def test_single_string_is_not_taken_for_keys(mc: Client) -> None:
    keys: Any
    for keys in ("abc", b"abc"):
        with pytest.raises(TypeError, match="sequence of keys"):
            mc.get_multi(keys)
    with pytest.raises(TypeError, match="mapping"):
        mc.delete_multi({"a": 1})
    with pytest.raises(TypeError, match="list of addresses"):
        Client("127.0.0.1")


def test_invalid_key_names_the_key_cut_and_escaped() -> None:
    error = InvalidKey("evil\r\nflush_all " + "x" * 1000, "is bad")
    assert str(error).startswith("memcached key 'evil\\r\\nflush_all xxx")
    assert str(error).endswith("...' is bad")
    assert len(str(error)) < 110
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.key, str(again)) == (error.key, str(error))


@pytest.mark.parametrize(
    "key", ["é", "ключ", "鍵", "é".encode(), b"\xff\x80", "x" * 250, "é" * 125]
)
def test_unusual_keys_mean_what_they_mean_to_pylibmc(address: str, key: Any) -> None:
    ours, theirs = Client([address]), pylibmc.Client([address])
    assert ours.set(key, "ours")
    assert theirs.get(key) == "ours"
    assert ours.get_multi([key]) == theirs.get_multi([key]) == {key: "ours"}
    short = key[:10]
    values: dict[str, str] = {short: "prefixed"}  # mypy accepts it
    assert ours.set_multi(values, key_prefix="p") == []
    assert theirs.get_multi([short], key_prefix="p") == {short: "prefixed"}
    assert ours.get_multi([short], key_prefix="p") == {short: "prefixed"}
    assert ours.delete_multi([short], key_prefix="p") is True
    assert ours.delete_multi([short], key_prefix="p") is False


def test_binary_protocol_has_the_length_rule_only(real_memcached: Memcached) -> None:
    mc = Client([real_memcached.address], binary=True)
    for key in ("a b", "a\r\nget b", "a\0b", b"\0", "x" * 250):
        assert mc.set(key, f"value of {key!r}")
        assert mc.get(key) == f"value of {key!r}"
        assert mc.get_multi([key]) == {key: f"value of {key!r}"}
    # pylibmc cuts prefixed keys at NUL bytes.
    assert mc.set_multi({"b\0c": 1, "b\0d": 2}, key_prefix="a\0") == []
    assert mc.get_multi(["b\0c", "b\0d", "c"], key_prefix="a\0") == {"b\0c": 1, "b\0d": 2}
    assert mc.get("a\0b\0c") == 1
    with pytest.raises(InvalidKey):
        mc.get("x" * 251)


LONG = "b" * 100


@pytest.mark.parametrize(("extend", "extended"), [("append", "a" + LONG), ("prepend", LONG + "a")])
def test_what_is_added_to_a_value_is_not_compressed(
    mc: Client, extend: str, extended: str
) -> None:
    assert mc.set("text", "a")
    assert getattr(mc, extend)("text", LONG, min_compress_len=10, compress_level=9)
    assert mc.get("text") == extended
    with pytest.raises(ValueError, match="min_compress_len must be"):
        getattr(mc, extend)("text", "b", min_compress_len=-1)


def test_all_else_is_as_with_pylibmc(mc: Client, cas_mc: Client) -> None:
    assert mc.set("key", {"any": ["value", 1, None]}, 100)
    assert mc.get("key") == mc["key"] == {"any": ["value", 1, None]}
    assert mc.get("missing") is None
    assert mc.get("missing", "default") == mc.get("missing", default="default") == "default"
    assert "key" in mc
    assert "missing" not in mc
    mc["other"] = "value" * 100
    assert mc.set("compressed", "value" * 100, min_compress_len=10, compress_level=9)
    assert mc["compressed"] == mc["other"]
    del mc["other"]
    with pytest.raises(KeyError):
        mc["other"]
    assert mc.add("key", 1) is False
    assert mc.replace("missing", 1) is False
    assert mc.set("text", "b")
    assert mc.append("text", "c")
    assert mc.prepend("text", "a")
    assert mc.get("text") == "abc"
    assert mc.set("count", 5)
    assert (mc.incr("count"), mc.incr("count", 4), mc.decr("count", 3)) == (6, 10, 7)
    mc.incr_multi(["count"], delta=3)
    assert mc.get("count") == 10
    assert mc.touch("count", 100) is True
    assert mc.touch("missing", 100) is False
    assert mc.delete("count") is True
    assert mc.delete("count") is False
    assert mc.add_multi({"text": 1, "new": 2}) == ["text"]
    value, cas = cas_mc.gets("new")
    assert value == 2
    assert cas_mc.cas("new", 3, cas) is True
    assert cas_mc.cas("new", 4, cas) is False
    assert cas_mc.gets("missing") == (None, None)
    assert mc.flush_all() is True
    assert mc.get("text") is None
    mc.behaviors = {"ketama": True}
    assert mc.behaviors["ketama"] == 1
    with pytest.raises(ValueError, match="delta"):
        mc.incr("count", -1)
    assert repr(mc.clone()) == repr(mc)


def test_signatures_are_pylibmcs() -> None:
    parameters = inspect.signature(Client.__init__).parameters
    theirs = inspect.signature(pylibmc.Client.__init__).parameters
    positional = [name for name in parameters if parameters[name].kind is not KEYWORD_ONLY]
    assert positional == list(theirs)


def test_own_serialization_is_used(address: str) -> None:
    class Json(Client):
        def serialize(self, value: Any) -> tuple[bytes, int]:
            return repr(value).encode(), 1 << 20

        def deserialize(self, data: bytes, flags: int) -> Any:
            if flags != 1 << 20:
                raise pylibmc.CacheMiss
            return ("read", data)

    mc = Json([address])
    for client in (mc, mc.clone()):
        assert client.set("key", [1])
        assert client.get("key") == ("read", b"[1]")


# -- In step


def poison(mc: Any) -> None:
    for key in ("a b", "k1\r\nget k2"):
        with contextlib.suppress(Exception):
            mc.set(key, "x")
        with contextlib.suppress(Exception):
            mc.get(key)


def test_one_bad_key_poisons_a_pylibmc_client_and_not_ours(address: str) -> None:
    theirs, ours = pylibmc.Client([address]), Client([address])
    wrong = {}
    for mc in (theirs, ours):
        mc.set_multi({f"k{number}": number for number in range(20)})
        poison(mc)
        wrong[mc] = 0
        for number in range(20):
            try:
                wrong[mc] += mc.get(f"k{number}") != number
            except pylibmc.Error:
                wrong[mc] += 1
    assert wrong[theirs] >= 15
    assert wrong[ours] == 0


class Unreadable:
    def __reduce__(self) -> Any:
        return (int, ("no number",))


IN_STEP: dict[str, Callable[[Client], Any]] = {
    "not found": lambda mc: mc.incr("missing"),
    "too big": lambda mc: mc.set("key", b"x" * (1 << 21)),
    "invalid key": lambda mc: mc.set("a b", 1),
    "bad arguments": lambda mc: mc.set("key", 1, "soon"),  # type: ignore[arg-type]
    "unpicklable": lambda mc: mc.set("key", lambda: None),
    "unreadable": lambda mc: mc.get("unreadable"),
    "unreadable of many": lambda mc: mc.get_multi(["k1", "unreadable", "k2"]),
    "unreadable with cas": lambda mc: mc.gets("unreadable"),
}


@pytest.mark.parametrize("error", IN_STEP)
def test_harmless_error_costs_nothing(
    cas_mc: Client, connections: Connections, error: str
) -> None:
    cas_mc.set_multi({"k1": 1, "k2": 2, "unreadable": Unreadable()})
    before = connections.opened()
    with pytest.raises(Exception):  # noqa: B017, PT011  they have nothing in common
        IN_STEP[error](cas_mc)
    assert (cas_mc.get("k1"), cas_mc.get("k2")) == (1, 2)
    assert connections.opened() == before


def test_harmless_error_of_one_of_several_servers_costs_nothing() -> None:
    with fake(answers(b"NOT_FOUND\r\n")) as server, fake(answers(b"NOT_FOUND\r\n")) as other:
        mc = Client([server.address, other.address])
        for _ in range(3):
            with pytest.raises(pylibmc.NotFound):
                mc.incr("missing")
        assert server.accepted + other.accepted == 1


def test_error_that_leaves_doubt_costs_a_connection(mc: Client, connections: Connections) -> None:
    mc.set("text", "no number")
    before = connections.opened()
    with pytest.raises(pylibmc.Error):
        mc.incr("text")
    assert mc.get("text") == "no number"
    assert connections.opened() == before + 1


def test_interrupted_command_leaves_doubt(mc: Client, connections: Connections) -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    mc.set("key", 1)
    before = connections.opened()
    with pytest.raises(KeyboardInterrupt):
        mc.set("key", Interrupting())
    assert mc.get("key") == 1
    assert connections.opened() == before + 1


@tracing
@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_interrupt_while_a_connection_is_closed_fails_no_later_command(
    mc: Client, error: type[BaseException]
) -> None:
    mc.set("key", 1)

    def check() -> None:
        assert mc.get("key") == 1

    assert interrupted_everywhere(error, mc.disconnect_all, check) > 50


@tracing
def test_interrupt_of_a_command_for_each_server_reaches_the_caller(
    real_memcached: Memcached,
) -> None:
    """Such a command makes clients, and nothing is left to do when they are freed."""
    mc = Client([real_memcached.address], {"no_block": True}, binary=True)

    def check() -> None:
        assert mc.set("key", 1)

    assert interrupted_everywhere(KeyboardInterrupt, mc.get_stats, check) > 200


keys = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([f"k{number}" for number in range(5)]),
    st.sampled_from(["a b", "k1\r\nget k2", "k1 0 0 1\r\nx", "", "x" * 251, b"k1 noreply"]),
)


OPERATIONS = ["set", "get", "get_multi", "set_multi", "delete", "incr"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    operations=st.lists(
        st.tuples(st.sampled_from(OPERATIONS), keys),
        max_size=40,
    )
)
def test_every_read_returns_what_was_stored_under_that_key(
    server_connections: Connections, operations: list[tuple[str, Any]]
) -> None:
    server_connections.mc.flush_all()
    stored: dict[bytes, Any] = {}
    pool = ClientPool(Client([server_connections.address]), 2)
    for number, (operation, key) in enumerate(operations):
        value = ("value", number)
        with pool.reserve() as mc:
            try:
                raw = key.encode() if isinstance(key, str) else key
                if operation == "set":
                    if mc.set(key, value):
                        stored[raw] = value
                elif operation == "set_multi":
                    if not mc.set_multi({key: value}, key_prefix=""):
                        stored[raw] = value
                elif operation == "get":
                    assert mc.get(key) == stored.get(raw)
                elif operation == "get_multi":
                    found = mc.get_multi([key])
                    assert found == ({key: stored[raw]} if raw in stored else {})
                elif operation == "delete":
                    assert mc.delete(key) is (stored.pop(raw, None) is not None)
                else:
                    mc.incr(key)
            except (InvalidKey, UnicodeEncodeError, pylibmc.Error):
                continue
    with pool.reserve() as mc:
        for raw, value in stored.items():
            assert mc.get(raw) == value


# -- Time limits and failures


@pytest.mark.servers
@pytest.mark.parametrize("command", ["get", "set", "get_multi", "incr", "delete"])
def test_stopped_memcached_holds_a_command_no_longer_than_the_limit(
    mortal: Mortal, command: str
) -> None:
    limit = DEFAULT_BEHAVIORS["_poll_timeout"] / 1000
    mc = Client([mortal.address], {"retry_timeout": 60})
    mc.set("key", 1)
    mortal.stop()
    operation = {**ONE_KEY, **MANY_KEYS}[command]
    for _ in range(3):
        began = time.monotonic()
        with contextlib.suppress(pylibmc.Error):
            operation(mc, "key")
        assert time.monotonic() - began < limit + 0.4
    if pylibmc.libmemcached_version == "1.0.16":  # later ones wait each time
        with pytest.raises(pylibmc.ServerDown):
            mc.get("key")


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


# -- What was missed once


def test_namespace_that_is_set_later_counts_for_the_length(mc: Client) -> None:
    mc.set_behaviors({"namespace": b"app:"})
    assert mc.set("x" * 246, 1)
    for command in (lambda: mc.set("x" * 247, 1), lambda: mc.get_multi(["x" * 247])):
        with pytest.raises(InvalidKey, match="247 bytes where 246"):
            command()


def test_defaults_are_pylibmcs(mc: Client) -> None:
    for name in ("set", "add", "replace", "append", "prepend", "decr", "incr", "add_multi"):
        ours = inspect.signature(getattr(Client, name)).parameters
        defaults = {key: one.default for key, one in ours.items()}
        assert defaults.get("delta", 1) == 1
        assert defaults.get("time", 0) == 0
        assert defaults.get("min_compress_len", 0) == 0
        assert defaults.get("compress_level", -1) == -1
    mc.set("count", 5)
    assert (mc.decr("count"), mc.incr("count")) == (4, 5)
    assert mc.add_multi({"new": 1}) == []
    assert mc.get("new") == 1


def test_two_servers_are_several() -> None:
    assert Client(["127.0.0.1:1", "127.0.0.1:2"]).behaviors["ketama"] == 1
    assert Client(["127.0.0.1:1"]).behaviors["ketama"] == 0


def test_behaviors_are_read_without_a_connection(mc: Client, connections: Connections) -> None:
    assert mc.behaviors["tcp_nodelay"] == 1
    assert connections.count() == 0


def test_answer_that_does_not_end_leaves_doubt() -> None:
    """pylibmc says so by a RuntimeError."""

    def two_values(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"VALUE key 0 5 1\r\nvalue\r\nVALUE key 0 5 2\r\nother\r\nEND\r\n")
        conversation.request()
        conversation.send(b"END\r\n")
        conversation.wait()

    with fake(two_values) as server:
        mc = Client([server.address], {"cas": True})
        with contextlib.suppress(RuntimeError, pylibmc.Error):
            mc.gets("key")
        with contextlib.suppress(RuntimeError, pylibmc.Error):
            mc.gets("key")
        assert server.accepted == 2
