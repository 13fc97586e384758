"""Keys are checked before the wire."""

from __future__ import annotations

import pickle
from typing import Any

import pylibmc
import pytest
from commands import MANY_KEYS, ONE_KEY
from harness import Connections
from hostile_values import BytesWithoutEnd, Call, EmptyBytes, TextWithoutEnd

from mcpool_wsgi import Client, ClientPool, InvalidKey, PooledClient
from mcpool_wsgi.devserver import Memcached

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


def test_every_command_of_pylibmc_is_covered() -> None:
    mapping = {name for name in dir(pylibmc.Client) if name.endswith("item__")} | {"__contains__"}
    public = {name for name in dir(pylibmc.Client) if not name.startswith("_")}
    assert public | mapping == {*ONE_KEY, *MANY_KEYS, *NO_KEY}


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
@pytest.mark.parametrize("command", ONE_KEY)
def test_bad_key_is_refused_before_the_wire(
    cas_mc: Client, connections: Connections, command: str, key: Any
) -> None:
    with pytest.raises(InvalidKey):
        ONE_KEY[command](cas_mc, key)
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
@pytest.mark.parametrize("command", MANY_KEYS)
def test_bad_key_among_many_is_refused_before_the_wire(
    cas_mc: Client, connections: Connections, command: str, key: Any
) -> None:
    for prefix in ({}, {"key_prefix": "p"}, {"key_prefix": b"p"}):
        with pytest.raises(InvalidKey):
            MANY_KEYS[command](cas_mc, key, **prefix)
    with pytest.raises(InvalidKey):
        MANY_KEYS[command](cas_mc, "fine", key_prefix=key)
    assert connections.count() == 0


@pytest.mark.parametrize("key", ["", b""])
@pytest.mark.parametrize("namespace", [None, "app:"])
@pytest.mark.parametrize("command", ONE_KEY)
def test_empty_key_is_a_miss_as_with_pylibmc_and_is_not_sent(
    address: str, connections: Connections, command: str, namespace: str | None, key: Any
) -> None:
    behaviors = {"cas": True, "namespace": namespace and namespace.encode()}
    theirs = pylibmc.Client([address], behaviors={k: v for k, v in behaviors.items() if v})
    mc = Client([address], behaviors)
    try:
        answer = ONE_KEY[command](theirs, key)
    except pylibmc.BadKeyProvided:
        with pytest.raises(InvalidKey, match="'' is empty"):
            ONE_KEY[command](mc, key)
    except KeyError:
        with pytest.raises(KeyError):
            ONE_KEY[command](mc, key)
    else:
        assert ONE_KEY[command](mc, key) == answer
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


@pytest.mark.parametrize("command", MANY_KEYS)
def test_prefix_counts_for_the_length(cas_mc: Client, command: str) -> None:
    fine, too_long = "x" * 240, "x" * 241
    cas_mc.set_multi({"ok": 1, fine: 1}, key_prefix="prefix____")
    MANY_KEYS[command](cas_mc, fine, key_prefix="prefix____")
    with pytest.raises(InvalidKey, match="251 bytes where 250"):
        MANY_KEYS[command](cas_mc, too_long, key_prefix="prefix____")


@pytest.mark.parametrize("args", ["items\r\nget k1", "x\r\nflush_all", "a\0"])
def test_statistics_ask_for_no_command(mc: Client, args: str) -> None:
    with pytest.raises(InvalidKey):
        mc.get_stats(args)
    mc.get_stats("items")


def test_namespace_counts_for_the_length(address: str) -> None:
    mc = Client([address], {"namespace": b"app:"})
    for client in (mc, mc.clone()):
        assert client.set("x" * 246, 1)
        with pytest.raises(InvalidKey, match="247 bytes where 246"):
            client.set("x" * 247, 1)
    assert Client([address]).get("app:" + "x" * 246) == 1


@pytest.mark.parametrize("no_key", [1, None, ("a",), bytearray(b"a"), memoryview(b"a b")])
def test_key_that_is_neither_str_nor_bytes_is_refused(mc: Client, no_key: Any) -> None:
    for command in ONE_KEY.values():
        with pytest.raises(TypeError, match="str or bytes"):
            command(mc, no_key)


def test_single_string_is_not_taken_for_keys(mc: Client) -> None:
    keys: Any
    for keys in ("abc", b"abc"):
        for command in (mc.get_multi, mc.delete_multi, mc.incr_multi):
            with pytest.raises(TypeError, match="sequence of keys"):
                command(keys)
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


def test_namespace_that_is_set_later_counts_for_the_length(mc: Client) -> None:
    mc.set_behaviors({"namespace": b"app:"})
    assert mc.set("x" * 246, 1)
    for command in (lambda: mc.set("x" * 247, 1), lambda: mc.get_multi(["x" * 247])):
        with pytest.raises(InvalidKey, match="247 bytes where 246"):
            command()


LONG_KEYS = {
    "text": TextWithoutEnd("x" * 300),
    "bytes": BytesWithoutEnd(b"x" * 300),
    "two words": TextWithoutEnd("a\r\nget b"),
    "two words in bytes": BytesWithoutEnd(b"a\r\nget b"),
}


@pytest.mark.parametrize("what", LONG_KEYS)
def test_keys_that_lie_about_themselves_are_refused(
    mc: Client, server_connections: Connections, what: str
) -> None:
    key = LONG_KEYS[what]
    cas_mc: Any = Client(mc.addresses, {"cas": True})
    before = server_connections.opened()
    calls: list[Call] = [
        lambda: cas_mc.get(key),
        lambda: cas_mc.gets(key),
        lambda: cas_mc.set(key, 1),
        lambda: cas_mc.append(key, "1"),
        lambda: cas_mc.cas(key, 1, 1),
        lambda: cas_mc.incr(key),
        lambda: cas_mc.touch(key, 1),
        lambda: cas_mc.delete(key),
        lambda: cas_mc.get_multi([key]),
        lambda: cas_mc.set_multi({key: 1}),
        lambda: cas_mc.incr_multi([key]),
        lambda: cas_mc.delete_multi([key]),
        lambda: cas_mc.get_multi(["x"], key_prefix=key),
    ]
    for call in calls:
        with pytest.raises(InvalidKey):
            call()
    assert server_connections.opened() == before


@pytest.mark.parametrize(
    "key", [EmptyBytes(b"key"), BytesWithoutEnd(b"key"), TextWithoutEnd("key")], ids=ascii
)
def test_keys_that_lie_about_themselves_are_what_they_are(mc: Client, key: Any) -> None:
    assert mc.set(key, "value")
    assert mc.get("key") == mc.get(key) == "value"
    assert list(mc.get_multi([key]).values()) == ["value"]
    assert mc.delete(key) is True
    assert mc.get("key") is None


#: pylibmc's errors show 32 bytes of a key. Of these keys, they are no UTF-8.
@pytest.mark.parametrize("key", [b"key-\xc8", "x" * 31 + "\u044f"], ids=ascii)
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("servers", [1, 2])
def test_cas_of_a_missing_key_that_pylibmc_cannot_show(
    real_memcached: Memcached, key: Any, binary: bool, servers: int
) -> None:
    client = Client([real_memcached.address] * servers, {"cas": True}, binary)
    client.delete(key)
    with pytest.raises(pylibmc.NotFound):
        client.cas(key, "value", 5)
    assert client.set(key, "value")
    assert client.cas(key, "other", client.gets(key)[1]) is True
    assert client.get(key) == "other"
