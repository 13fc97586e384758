"""Values: what goes in and comes out, with pickle, without it, and with another serializer."""

from __future__ import annotations

import enum
import json
import math
import pickle
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import Connections

from mcpool_wsgi import Client, ClientPool, PickleForbidden, ThreadMappedPool
from mcpool_wsgi.client import values

pytestmark = pytest.mark.slow

VALUES: dict[str, Any] = {
    "text": "text",
    "empty text": "",
    "Cyrillic text": "ключ",
    "long text": "x" * 10_000,
    "bytes": b"\x00\r\n\xff",
    "empty bytes": b"",
    "long bytes": b"x" * 10_000,
    "int": 5,
    "zero": 0,
    "negative": -7,
    "large": 10**30,
    "true": True,
    "false": False,
    "float": 1.5,
    "small float": 5e-324,
    "large float": 1.7976931348623157e308,
    "negative zero": -0.0,
    "infinity": math.inf,
    "tenth": 0.1,
}
NEED_PICKLE: dict[str, Any] = {
    "none": None,
    "list": [1],
    "tuple": (1,),
    "dict": {"a": 1},
    "set": {1},
    "complex": 1j,
    "object": object(),
    "class": dict,
    "function": len,
    "int without a decimal form": 10**5000,
}
JSON_VALUES: list[Any] = [
    None,
    True,
    "text",
    "",
    5,
    1.5,
    [],
    {},
    [1, "two", None, [3.5, {"four": False}]],
    {"a": {"b": [1, 2]}, "ключ": "значение"},
]


def every(values: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("value", values.values(), ids=list(values))


def equal(one: Any, other: Any) -> bool:
    """Whether both are equal, of one type and of one sign."""
    return type(one) is type(other) and repr(one) == repr(other)


Write = Callable[[Client, Any], object]

#: Every command that stores a value, under "the-key".
WRITES: dict[str, Write] = {
    "set": lambda mc, value: mc.set("the-key", value),
    "set, compressed": lambda mc, value: mc.set("the-key", value, min_compress_len=1),
    "add": lambda mc, value: mc.delete("the-key") and mc.add("the-key", value),
    "replace": lambda mc, value: mc.replace("the-key", value),
    "cas": lambda mc, value: mc.cas("the-key", value, mc.gets("the-key")[1]),
    "set_multi": lambda mc, value: mc.set_multi({"other": "x", "the-key": value}) == [],
    "set_multi, compressed": lambda mc, value: (
        mc.set_multi({"the-key": value}, min_compress_len=1, compress_level=9) == []
    ),
    "set_multi, prefix": lambda mc, value: mc.set_multi({"key": value}, key_prefix="the-") == [],
    "add_multi": lambda mc, value: mc.delete("the-key") and mc.add_multi({"the-key": value}) == [],
}
#: Every command that extends a stored value.
APPENDING: dict[str, Write] = {
    "append": lambda mc, value: mc.append("the-key", value),
    "prepend": lambda mc, value: mc.prepend("the-key", value),
}
ITEM: dict[str, Write] = {"item": lambda mc, value: mc.__setitem__("the-key", value)}
#: Every command that reads it.
READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda mc: mc.get("the-key"),
    "get with a default": lambda mc: mc.get("the-key", "default"),
    "gets": lambda mc: mc.gets("the-key")[0],
    "get_multi": lambda mc: mc.get_multi(["other", "the-key"])["the-key"],
    "get_multi, bytes": lambda mc: mc.get_multi([b"the-key"])[b"the-key"],
    "get_multi, prefix": lambda mc: mc.get_multi(["key"], key_prefix="the-")["key"],
    "item": lambda mc: mc["the-key"],
}


class Mine(Client):
    """A subclass with something of its own."""

    def greeting(self) -> Any:
        return self.get("greeting")


class MineWithSerialize(Client):
    def serialize(self, value: Any) -> tuple[bytes, int]:
        return repr(value).encode(), 0


class MineWithDeserialize(Client):
    def deserialize(self, data: bytes, flags: int) -> Any:
        return data


unpickled: list[str] = []


def note_unpickled(what: str) -> str:
    unpickled.append(what)
    return what


class Bomb:
    """Unpickling it has a side effect."""

    def __reduce__(self) -> Any:
        return (note_unpickled, ("bomb",))


@pytest.fixture
def safe(address: str) -> Client:
    """A client that reads no pickle and has "the-key" stored."""
    mc = Client([address], {"cas": True}, allow_pickle=False)
    mc.set_multi({"the-key": "before", "sync": "yes"})
    return mc


@pytest.fixture
def pickled(safe: Client) -> Client:
    """Somebody else has stored a pickle under "the-key"."""
    pylibmc.Client(safe.addresses).set("the-key", Bomb())
    unpickled.clear()
    return safe


def refuses_pickle(mc: Any) -> None:
    """The client neither writes nor reads a pickle, and stays in sync."""
    for name, value in NEED_PICKLE.items():
        with pytest.raises(PickleForbidden, match="some-key"):
            mc.set("some-key", value)
        assert mc.add("some-key", name), name  # nothing was stored
        assert mc.delete("some-key")
    with pytest.raises(PickleForbidden, match="the-key"):
        mc.get("the-key")
    assert mc.get("sync") == "yes"
    assert unpickled == []


# -- allow_pickle=False


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@every(VALUES)
def test_plain_value_goes_in_and_comes_out(safe: Client, write: Write, value: Any) -> None:
    assert write(safe, value)
    for name, read in READS.items():
        assert equal(read(safe), value), name
    assert "the-key" in safe


def test_item_goes_in_and_comes_out(safe: Client) -> None:
    for value in VALUES.values():
        safe["the-key"] = value
        assert equal(safe["the-key"], value)


def test_not_a_number_goes_in_and_comes_out(safe: Client) -> None:
    assert safe.set("the-key", math.nan)
    assert math.isnan(safe.get("the-key"))


@pytest.mark.parametrize("kind", [str, bytes, int, float])
def test_subclass_of_a_plain_type_is_stored_as_the_plain_type(safe: Client, kind: type) -> None:
    subclass: Any = type("Subclass", (kind,), {})
    plain = kind(b"7") if kind is bytes else kind("7")
    assert safe.set("the-key", subclass(plain))
    assert equal(safe.get("the-key"), plain)


def test_append_and_prepend_keep_the_type(safe: Client) -> None:
    parts: list[tuple[Any, Any, Any]] = [("b", "a", "c"), (b"b", b"a", b"c")]
    for middle, before, after in parts:
        safe.set("the-key", middle)
        assert safe.append("the-key", after)
        assert safe.prepend("the-key", before)
        assert equal(safe.get("the-key"), before + middle + after)


def test_plain_values_are_those_of_the_default_client(safe: Client) -> None:
    """Both kinds of client share a memcached. Only a float has another form.

    To the default client, as to pylibmc's, a bool is a number when it is read.
    """
    other = Client(safe.addresses)
    for value in VALUES.values():
        if isinstance(value, float):
            continue
        safe.set("ours", value)
        other.set("theirs", value)
        assert other.get("ours") == value
        assert equal(safe.get("theirs"), value)


def test_number_is_counted_on(safe: Client) -> None:
    for write in WRITES.values():
        write(safe, 5)
        if write is not WRITES["set, compressed"] and write is not WRITES["set_multi, compressed"]:
            assert (safe.incr("the-key", 2), safe.decr("the-key")) == (7, 6)
            assert equal(safe.get("the-key"), 6)


@pytest.mark.parametrize("name", [*WRITES, *APPENDING, *ITEM])
@every(NEED_PICKLE)
def test_value_that_needs_pickle_is_refused(
    safe: Client, server_connections: Connections, name: str, value: Any
) -> None:
    write = {**WRITES, **APPENDING, **ITEM}[name]
    assert safe.get("sync") == "yes"
    opened = server_connections.opened()
    with pytest.raises(PickleForbidden, match="key'") as caught:
        write(safe, value)
    # A prefix is no part of the caller's key.
    assert caught.value.key == ("key" if "prefix" in name else "the-key")
    assert safe.get("sync") == "yes"
    assert safe.get("the-key") in ("before", None)  # None: deleted before it was added
    assert server_connections.opened() == opened


def test_refusal_says_what_the_value_is(safe: Client) -> None:
    with pytest.raises(PickleForbidden, match=r"'the-key'.* list"):
        safe.set("the-key", [])
    with pytest.raises(PickleForbidden, match=r"'the-key'.* int .*too many digits"):
        safe.set("the-key", 10**5000)


def test_refusal_survives_pickle_of_its_own() -> None:
    error = pickle.loads(pickle.dumps(PickleForbidden("is pickled", "the-key")))
    assert (str(error), error.key) == (str(PickleForbidden("is pickled", "the-key")), "the-key")


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_pickle_of_somebody_else_is_not_read(
    pickled: Client, server_connections: Connections, read: Callable[[Any], Any]
) -> None:
    assert pickled.get("sync") == "yes"
    opened = server_connections.opened()
    with pytest.raises(PickleForbidden, match="key'") as caught:
        read(pickled)
    key = caught.value.key
    assert (key if isinstance(key, str) else bytes(key).decode()) in (  # type: ignore[call-overload]
        "the-key",
        "key",  # where "the-" is a prefix
    )
    for _ in range(3):
        assert pickled.get("sync") == "yes"
        assert pickled.get_multi(["sync", "nothing"]) == {"sync": "yes"}
    assert server_connections.opened() == opened
    assert unpickled == []


def test_pickle_of_somebody_else_is_not_asked_for(pickled: Client) -> None:
    with pytest.raises(PickleForbidden, match="the-key"):
        "the-key" in pickled  # noqa: B015
    assert pickled.get("sync") == "yes"
    assert unpickled == []


def test_compressed_pickle_of_somebody_else_is_not_read(safe: Client) -> None:
    pylibmc.Client(safe.addresses).set("the-key", [Bomb()] * 100, min_compress_len=1)
    unpickled.clear()
    refuses_pickle(safe)


def test_pickle_does_have_a_side_effect_otherwise(pickled: Client) -> None:
    """The tests above rely on it."""
    assert Client(pickled.addresses).get("the-key") == "bomb"
    assert unpickled == ["bomb"]


def test_pickle_is_overwritten_and_deleted(pickled: Client) -> None:
    assert pickled.set("the-key", "mine")
    assert pickled.get("the-key") == "mine"
    pylibmc.Client(pickled.addresses).set("the-key", [])
    assert pickled.delete("the-key")
    assert pickled.get("the-key") is None


def test_fail_soft_does_not_forgive_a_pickle(pickled: Client) -> None:
    mc = Client(pickled.addresses, fail_soft=True, allow_pickle=False)
    refuses_pickle(mc)
    with pytest.raises(PickleForbidden, match="the-key"):
        mc.get_multi(["the-key"])
    with pytest.raises(PickleForbidden, match="the-key"):
        mc.set_multi({"the-key": []})


def test_clones_read_no_pickle_either(pickled: Client) -> None:
    refuses_pickle(pickled.clone())
    refuses_pickle(pickled.clone().clone())


def test_client_for_other_servers_reads_no_pickle_either(pickled: Client) -> None:
    refuses_pickle(pickled.with_servers(pickled.addresses))
    refuses_pickle(pickled.clone().with_servers(pickled.addresses).clone())


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("make", [lambda mc: ClientPool(mc, 2), ThreadMappedPool])
def test_pools_read_no_pickle_either(pickled: Client, make: Any, lazy: bool) -> None:
    with make(pickled) as pool:
        for _ in range(2):
            with pool.reserve(lazy=lazy) as mc:
                refuses_pickle(mc)
        pool.set_servers(pickled.addresses)
        with pool.reserve(lazy=lazy) as mc:
            refuses_pickle(mc)
            mc.behaviors = {"tcp_nodelay": False}
            refuses_pickle(mc)


def test_subclasses_read_no_pickle_either(pickled: Client) -> None:
    mc = Mine(pickled.addresses, allow_pickle=False)
    mc.set("greeting", "hello")
    for client in (mc, mc.clone(), mc.with_servers(pickled.addresses)):
        assert isinstance(client, Mine)
        assert type(client).__name__ == "Mine"
        assert client.greeting() == "hello"
        refuses_pickle(client)
    with ClientPool(mc, 1) as pool, pool.reserve() as lent:
        assert lent.greeting() == "hello"  # type: ignore[attr-defined]
        refuses_pickle(lent)
    assert Mine(pickled.addresses).get("the-key") == "bomb"  # the class itself is as it was


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_forked_children_read_no_pickle_either(pickled: Client, fork: Any) -> None:
    mine = Mine(pickled.addresses, allow_pickle=False)
    pool = ClientPool(pickled, 1)
    with pool.reserve() as mc:
        assert mc.get("sync") == mine.get("sync") == "yes"

    def work() -> None:
        refuses_pickle(pickled)
        refuses_pickle(pickled.clone())
        refuses_pickle(mine)
        with pool.reserve() as mc:
            refuses_pickle(mc)

    succeeds(fork(work))


@pytest.mark.parametrize("kind", [MineWithSerialize, MineWithDeserialize])
def test_serialization_of_a_subclass_is_not_replaced(kind: Any) -> None:
    """What the subclass writes is its own affair, so nobody can promise that it is no pickle."""
    with pytest.raises(TypeError, match="serialize"):
        kind(["127.0.0.1"], allow_pickle=False)
    with pytest.raises(TypeError, match="serialize"):
        kind(["127.0.0.1"], serializer=json)
    kind(["127.0.0.1"])


# -- serializer=


@pytest.fixture
def json_mc(address: str) -> Client:
    mc = Client([address], {"cas": True}, serializer=json)
    mc.set_multi({"the-key": "before", "sync": "yes"})
    return mc


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_json_value_goes_in_and_comes_out(json_mc: Client, write: Write, value: Any) -> None:
    assert write(json_mc, value)
    for name, read in READS.items():
        assert equal(read(json_mc), value), name
    assert "the-key" in json_mc


def test_bytes_are_stored_as_they_are(json_mc: Client) -> None:
    assert json_mc.set("the-key", b"\xff\x00")
    assert json_mc.get("the-key") == b"\xff\x00"


def test_ints_stay_ints_with_json(json_mc: Client) -> None:
    json_mc.set("the-key", 5)
    assert json_mc.incr("the-key", 2) == 7
    assert equal(json_mc.get("the-key"), 7)
    assert pylibmc.Client(json_mc.addresses).get("the-key") == 7


def test_serializer_may_give_bytes(address: str) -> None:
    class Compact:
        def dumps(self, value: Any) -> bytes:
            return json.dumps(value, separators=(",", ":")).encode()

        def loads(self, data: bytes) -> Any:
            return json.loads(data)

    mc = Client([address], serializer=Compact())
    assert mc.set("the-key", {"a": [1]})
    assert mc.get("the-key") == {"a": [1]}


@pytest.mark.parametrize("data", [5, [65, 66], None, 1.5])
def test_serializer_that_gives_no_text_is_named(address: str, data: Any) -> None:
    class Wrong:
        def dumps(self, value: Any) -> Any:
            return data

        def loads(self, data: Any) -> Any:
            return data

    mc = Client([address], {"cas": True}, serializer=Wrong())
    for write in WRITES.values():
        mc.set("the-key", "before")
        with pytest.raises(TypeError, match=r"key'.*dumps\(\) .* must return str or bytes, not"):
            write(mc, {"a": 1})


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_text_that_has_no_bytes_is_named_by_its_key(address: str, allow_pickle: bool) -> None:
    mc = Client([address], {"cas": True}, allow_pickle=allow_pickle)
    for write in WRITES.values():
        mc.set("the-key", "before")
        with pytest.raises(UnicodeEncodeError, match=r"of memcached key '(the-)?key'"):
            write(mc, "\ud800")
    assert mc.set("the-key", 1)


def test_error_of_the_serializer_reaches_the_caller(
    json_mc: Client, server_connections: Connections
) -> None:
    assert json_mc.get("sync") == "yes"
    opened = server_connections.opened()
    for write in (*WRITES.values(), *APPENDING.values()):
        json_mc.set("the-key", "before")
        with pytest.raises(TypeError, match="JSON"):
            write(json_mc, {1, 2})
        assert json_mc.get("sync") == "yes"
    assert server_connections.opened() == opened


def test_int_without_a_decimal_form_is_refused_with_json(json_mc: Client) -> None:
    with pytest.raises(PickleForbidden, match=r"'the-key'.* int .*too many digits"):
        json_mc.set("the-key", 10**5000)
    assert json_mc.get("sync") == "yes"


def test_json_client_reads_no_pickle(json_mc: Client) -> None:
    pylibmc.Client(json_mc.addresses).set("the-key", Bomb())
    unpickled.clear()
    with ClientPool(json_mc, 1) as pool, pool.reserve() as lent:
        for mc in (json_mc, json_mc.clone(), json_mc.with_servers(json_mc.addresses), lent):
            for read in (READS["get"], READS["get_multi"], READS["item"]):
                with pytest.raises(PickleForbidden, match="the-key"):
                    read(mc)
            assert mc.get("sync") == "yes"
            assert mc.set("list", [1])
            assert mc.get("list") == [1]
    assert unpickled == []


def test_client_without_the_serializer_reads_nothing_of_it(json_mc: Client) -> None:
    json_mc.set("the-key", [1])
    for other in (Client(json_mc.addresses, allow_pickle=False), Client(json_mc.addresses)):
        with pytest.raises(pylibmc.Error, match="flags"):
            other.get("the-key")
        assert other.get("sync") == "yes"


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_forked_children_have_the_serializer(json_mc: Client, fork: Any) -> None:
    def work() -> None:
        for mc in (json_mc, json_mc.clone()):
            assert mc.set("list", [1])
            assert mc.get("list") == [1]

    succeeds(fork(work))


@pytest.mark.parametrize("missing", ["dumps", "loads"])
def test_serializer_without_its_functions_is_refused(missing: str) -> None:
    class Half:
        def __init__(self) -> None:
            other = {"dumps": "loads", "loads": "dumps"}[missing]
            setattr(self, other, lambda value: value)

    half: Any = Half()
    with pytest.raises(TypeError, match=missing):
        Client(["127.0.0.1"], serializer=half)
    setattr(half, missing, "no function")
    with pytest.raises(TypeError, match=missing):
        Client(["127.0.0.1"], serializer=half)


# -- The default


class Colour(enum.IntEnum):
    RED = 1


class Mute(int):
    """An int that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@every({"IntEnum": Colour.RED, "no text": Mute(7)})
def test_subclass_of_int_is_an_int_without_pickle(safe: Client, value: Any) -> None:
    for name, write in WRITES.items():
        assert write(safe, value), name
        assert equal(safe.get("the-key"), int(value)), name


class SaysItIsEmpty(bytes):
    def __len__(self) -> int:
        return 0


def store_with_all_commands(mc: Client, value: Any) -> list[Callable[[], object]]:
    return [
        lambda: mc.set("key", value),
        lambda: mc.set("key", value, min_compress_len=1),
        lambda: mc.add("new", value),
        lambda: mc.replace("key", value),
        lambda: mc.append("key", value),
        lambda: mc.prepend("key", value),
        lambda: mc.cas("key", value, 1),
        lambda: mc.set_multi({"key": value}),
        lambda: mc.set_multi({"key": value}, min_compress_len=1),
        lambda: mc.add_multi({"new": value}),
    ]


@pytest.mark.parametrize("kind", [bytes, SaysItIsEmpty])
def test_value_of_two_gigabytes_is_refused_before_the_wire(
    address: str, kind: Callable[[int], Any]
) -> None:
    """memcached refuses the line of the command, and reads the bytes of the value as commands."""
    mc = Client([address], {"cas": True})
    assert mc.set("key", "value")
    value = kind(2**31)  # of NULs, which the system only promises
    for store in store_with_all_commands(mc, value):
        with pytest.raises(ValueError, match=r"memcached key '(key|new)'.*2147483648 bytes"):
            store()
    assert mc.get("key") == "value"


def test_length_of_a_text_is_that_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "TOO_LONG", 1000)
    monkeypatch.setattr(values, "MAY_BE_TOO_LONG", 250)
    values.check_length("x" * 999)
    values.check_length("é" * 499)
    for text in ("x" * 1000, "é" * 500):
        with pytest.raises(ValueError, match="1000 bytes"):
            values.check_length(text)


def test_length_of_a_serialized_value_is_checked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "TOO_LONG", 1000)
    mc = Client([address], {"cas": True}, serializer=json)
    assert mc.set("key", "value")
    for store in store_with_all_commands(mc, ["x" * 2000]):
        with pytest.raises(ValueError, match=r"memcached key '(key|new)'.*can be stored"):
            store()
    assert mc.get("key") == "value"


class Proxy:
    """It says that it is what it stands for, as Django's lazy objects do."""

    def __init__(self, value: Any) -> None:
        self._value = value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._value)

    def __reduce__(self) -> Any:
        return type(self._value), (self._value,)


@pytest.mark.parametrize("value", ["text", b"bytes", 5, True])
def test_proxy_of_a_plain_value_is_pickled(address: str, value: Any) -> None:
    mc = Client([address])
    assert mc.set("key", Proxy(value))
    assert mc.get("key") == value
    assert mc.set_multi({"others": Proxy(value)}) == []
    assert mc.get("others") == value
