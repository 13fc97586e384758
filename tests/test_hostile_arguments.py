"""Arguments that pylibmc would crash on, cut, or take for something else."""

from __future__ import annotations

import contextlib
import enum
import json
import math
import pickle
import random
import signal
from pathlib import Path
from typing import Any, Callable

import pylibmc
import pytest
from forking import in_child, succeeds
from harness import Connections
from mortal import Mortal

from mcpool_wsgi import Client, InvalidKey

Call = Callable[[], object]


# -- Values


class Hostile(Exception):
    """What the hostile objects below raise."""


class Colour(enum.IntEnum):
    RED = 7


class Seven(int):
    def __str__(self) -> str:
        return "seven"


class NoText(int):
    """An integer that cannot be shown."""

    def __str__(self) -> str:
        raise Hostile

    __repr__ = __str__


class NoNumber(int):
    """An integer that converts to no other."""

    def __int__(self) -> int:
        raise Hostile

    __index__ = __float__ = __bool__ = __hash__ = __int__  # type: ignore[assignment]


class TextWithoutEnd(str):
    """Text that lies about its length, and about all else that a check may ask."""

    def __len__(self) -> int:
        return 1

    def encode(self, *args: Any) -> bytes:
        return b"k"

    def isascii(self) -> bool:
        return True

    isprintable = isascii


class BytesWithoutEnd(bytes):
    """Bytes that lie about their length."""

    def __len__(self) -> int:
        return 1

    def __bytes__(self) -> bytes:
        return b"k"


class EmptyBytes(bytes):
    def __len__(self) -> int:
        return 0


class NegativeText(str):
    def __len__(self) -> int:
        return -1


class NoList(list[Any]):
    """A list whose length is not that of what it yields."""

    def __len__(self) -> int:
        return 1


class NoDict(dict[Any, Any]):
    def __getitem__(self, key: Any) -> Any:
        raise Hostile

    def __iter__(self) -> Any:
        raise Hostile

    keys = items = values = __iter__


class Nothing:
    """Neither hashed, nor compared, nor shown, nor pickled."""

    def __hash__(self) -> int:
        raise Hostile

    def __repr__(self) -> str:
        raise Hostile

    def __eq__(self, other: object) -> bool:
        raise Hostile

    def __reduce__(self) -> Any:
        raise Hostile


NUMBERS: dict[str, Any] = {
    "-1": -1,
    "2**31": 2**31,
    "2**32": 2**32,
    "2**32 + 1": 2**32 + 1,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63 - 1": -(2**63) - 1,
    "10**5000": 10**5000,
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "True": True,
    "IntEnum": Colour.RED,
    "int that cannot be shown": NoText(1),
    "int that does not convert": NoNumber(1),
}
HOSTILE: dict[str, Any] = {
    **NUMBERS,
    "None": None,
    "no text": "",
    "no bytes": b"",
    "NUL": "a\0b",
    "half a surrogate pair": "\ud800",
    "a megabyte of text": "x" * 1_000_000,
    "a megabyte of bytes": b"x" * 1_000_000,
    "long text that says it is short": TextWithoutEnd("x" * 300),
    "two words that say they are one": TextWithoutEnd("a\r\nget b"),
    "long bytes that say they are short": BytesWithoutEnd(b"x" * 300),
    "bytes that say they are empty": EmptyBytes(b"x" * 300),
    "text of negative length": NegativeText("x"),
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "list": ["a", b"b", None, 5],
    "list of 10 000 keys": [f"key{number}" for number in range(10_000)],
    "list that says it is short": NoList([f"key{number}" for number in range(100)]),
    "dict": {"a": 1, 5: None},
    "dict that does not say what is in it": NoDict(a=1),
    "tuple": ("a", 1),
    "object": object(),
    "object that raises": Nothing(),
    "class": Nothing,
    "function": lambda *args: args,
    "module": pickle,
}

# -- Every public name


#: Arguments that are fine. Each is replaced by everything hostile, one at a time.
FINE: dict[str, tuple[Any, ...]] = {
    "get": ("key", None),
    "gets": ("key",),
    "set": ("key", "value", 0, 0, -1),
    "add": ("key", "value", 0, 0, -1),
    "replace": ("key", "value", 0, 0, -1),
    "append": ("key", "value", 0, 0, -1),
    "prepend": ("key", "value", 0, 0, -1),
    "cas": ("key", "value", 1, 0),
    "incr": ("number", 1),
    "decr": ("number", 1),
    "touch": ("key", 100),
    "delete": ("key",),
    "get_multi": (["key", "number"], "prefix"),
    "set_multi": ({"key": 1, b"other": "x"}, 0, "prefix", 0, -1),
    "add_multi": ({"key": 1, b"other": "x"}, 0, "prefix", 0, -1),
    "incr_multi": (["key", "number"], "prefix", 1),
    "delete_multi": (["key", "number"], "prefix"),
    "flush_all": (0,),
    "get_stats": ("items",),
    "hash": ("key",),
    "serialize": ("value",),
    "deserialize": (b"1", 4),
    "get_behaviors": (),
    "set_behaviors": ({"tcp_nodelay": True},),
    "behaviors": ({"tcp_nodelay": True},),
    "behaviours": (),
    "clone": (),
    "disconnect_all": (),
    "__getitem__": ("key",),
    "__setitem__": ("key", "value"),
    "__delitem__": ("key",),
    "__contains__": ("key",),
}
#: What a hostile argument may end in; all else says that something went wrong inside.
CLEAN = (
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,  # what pickle says of functions, and "behaviours"
    KeyError,
    EOFError,  # what pickle says of data that are none
    pickle.PickleError,
    pylibmc.Error,
    Hostile,
)
NOT_CLEAN = (SystemError, MemoryError, RuntimeError)


def test_every_public_name_of_pylibmc_is_covered() -> None:
    public = {name for name in dir(pylibmc.Client) if not name.startswith("_")}
    items = {name for name in dir(pylibmc.Client) if name.endswith("item__")} | {"__contains__"}
    assert set(FINE) == public | items


def calls(mc: Any, name: str) -> dict[str, Call]:
    """What is done with *name*, each with its description."""
    fine = FINE[name]
    found: dict[str, Call] = {
        "as it should be": lambda: use(mc, name, fine),
        "nothing": lambda: use(mc, name, ()),
        "too much": lambda: use(mc, name, (*fine, *fine, 1)),
    }
    for place in range(len(fine)):
        for what, hostile in HOSTILE.items():
            args = (*fine[:place], hostile, *fine[place + 1 :])
            found[f"{what} as number {place}"] = lambda args=args: use(mc, name, args)  # type: ignore[misc]
            container = fine[place]
            if isinstance(container, list):
                args = (*fine[:place], ["key", hostile], *fine[place + 1 :])
                found[f"{what} in number {place}"] = lambda args=args: use(mc, name, args)  # type: ignore[misc]
            elif isinstance(container, dict):
                args = (*fine[:place], {"key": hostile}, *fine[place + 1 :])
                found[f"{what} in number {place}"] = lambda args=args: use(mc, name, args)  # type: ignore[misc]
    if name in ("set_behaviors", "behaviors"):
        found.update(settings(lambda behaviors: use(mc, name, (behaviors,))))
    return found


def use(mc: Any, name: str, args: tuple[Any, ...]) -> object:
    if name == "behaviors" and args:
        mc.behaviors, *_ = args
        return mc.behaviors
    found = getattr(mc, name)
    return found(*args) if callable(found) else found


#: Values of behaviors that libmemcached, which takes 64 bits, cannot be given at random.
HARMLESS = {
    **{what: value for what, value in HOSTILE.items() if not isinstance(value, (int, float))},
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63 - 1": -(2**63) - 1,
    "1.5": 1.5,
    "nan": math.nan,
    "int that cannot be shown": NoText(1),
    "int that does not convert": NoNumber(1),
}


def settings(use_behaviors: Callable[[Any], object]) -> dict[str, Call]:
    """Hostile values for every behavior there is."""
    names = [*pylibmc.all_behaviors, "namespace", "bogus", "_retry_timeout"]
    found: dict[str, Call] = {}
    for name in names:
        for what, value in HARMLESS.items():
            behaviors = {name: value}
            found[f"{what} for {name}"] = lambda behaviors=behaviors: use_behaviors(behaviors)  # type: ignore[misc]
    return found


def survives(log: Path, make: Callable[[], tuple[dict[str, Call], Call]]) -> None:
    """No call ends its process, and after each of them *check* still holds.

    All calls are made in one child. If it ends by a signal, another goes on with the next call.

    :param make: gives the calls and *check*; it is called in the child.
    """
    ended: list[str] = []
    first = 0
    while True:
        child = in_child(lambda: go_through(log, first, *make()))  # noqa: B023
        try:
            succeeds(child)
        except AssertionError:
            number, _, what = log.read_text().splitlines()[-1].partition(" ")
            if number == "problems":
                pytest.fail(f"not clean: {what}; and these ended the process: {ended}")
            ended.append(what)
            first = int(number) + 1
        else:
            assert not ended, f"these ended the process: {ended}"
            return


def go_through(log: Path, first: int, calls: dict[str, Call], check: Call) -> None:
    problems = []
    with log.open("w", buffering=1) as progress:
        for number, (what, call) in enumerate(calls.items()):
            if number < first:
                continue
            progress.write(f"{number} {what}\n")
            try:
                call()
            except CLEAN as error:
                if isinstance(error, NOT_CLEAN):
                    problems.append(f"{what}: {type(error).__name__}")
            except Exception as error:
                problems.append(f"{what}: {type(error).__name__}: {error}")
            try:
                check()
            except Exception as error:
                problems.append(f"after {what}: {type(error).__name__}: {error}")
        if problems:
            progress.write(f"problems {problems}\n")
    assert not problems


def answers_rightly(mc: Any, flushed: bool = False) -> None:
    """The client answers for the keys that it is asked for.

    :param flushed: what it stores may be gone at once.
    """
    values = {"known": b"known value", "known too": 12345}
    for number in range(2):
        fresh = {f"{key}{number}".replace(" ", "-"): value for key, value in values.items()}
        assert mc.set_multi(fresh) == []
        found = mc.get_multi([*fresh, "missing"])
        assert found == fresh or (flushed and found.items() <= fresh.items())
        for key, value in fresh.items():
            found = mc.get(key)
            assert found == value or (flushed and found is None)
            assert mc.get(f"no-{key}") is None


@pytest.mark.servers
@pytest.mark.parametrize("name", FINE)
def test_hostile_arguments_end_no_process_and_mix_up_no_answers(
    mortal: Mortal, tmp_path: Path, name: str
) -> None:
    def make() -> tuple[dict[str, Call], Call]:
        mc = Client([mortal.address], {"cas": True})
        mc.set_multi({"key": "value", "number": 5})

        def check() -> None:
            if name in ("set_behaviors", "behaviors"):
                answers_rightly(Client([mortal.address]))  # other settings, other answers
            else:
                answers_rightly(mc, flushed=name == "flush_all")

        return calls(mc, name), check

    survives(tmp_path / "log", make)


def hostile_clients(address: str) -> dict[str, Call]:
    """Constructors, each with something hostile."""
    found: dict[str, Call] = {}
    fine: dict[str, Any] = {
        "servers": [address],
        "behaviors": None,
        "binary": False,
        "username": None,
        "password": None,
        "fail_soft": False,
        "allow_pickle": True,
        "serializer": json,
        "command_timeout": 1.0,
    }
    for name in fine:
        for what, value in HOSTILE.items():
            if name == "servers" and what == "list of 10 000 keys":
                continue  # ketama takes minutes for so many
            options = {**fine, name: value}
            if name in ("username", "password"):
                options = {**options, "binary": True, "username": "user", name: value}
            found[f"{what} as {name}"] = lambda options=options: construct(**options)  # type: ignore[misc]
            if name == "servers":
                options = {**fine, name: [address, value]}
                found[f"{what} in servers"] = lambda options=options: construct(**options)  # type: ignore[misc]
    found.update(settings(lambda behaviors: construct([address], behaviors)))
    for what, server in BAD_SERVERS.items():
        found[f"{what} as a server"] = lambda server=server: construct([server])  # type: ignore[misc]
    found["100 servers"] = lambda: construct([address] * 100)
    return found


def construct(*args: Any, **options: Any) -> None:
    mc = Client(*args, **options)
    mc.clone().hash("key")
    repr(mc)
    str(mc)


@pytest.mark.servers
def test_hostile_constructors_end_no_process(mortal: Mortal, tmp_path: Path) -> None:
    def make() -> tuple[dict[str, Call], Call]:
        return hostile_clients(mortal.address), lambda: answers_rightly(Client([mortal.address]))

    survives(tmp_path / "log", make)


# -- Servers

BAD_SERVERS: dict[str, Any] = {
    "nothing": "",
    "NUL in a name": "127.0.0.1\0evil",
    "NUL in a path": "/tmp/\0evil",
    "half a surrogate pair in a path": "/tmp/caf\udce9.sock",
    "port -1": "127.0.0.1:-1",
    "port 0": "127.0.0.1:0",
    "port 65536": "127.0.0.1:65536",
    "port 99999": "127.0.0.1:99999",
    "no port": "127.0.0.1:",
    "port that is no number": "127.0.0.1:memcached",
    "no host": ":11211",
    "weight -1": "127.0.0.1:11211:-1",
    "weight 65536": "127.0.0.1:11211:65536",
    "IPv6 without an end": "[::1",
    "IPv6 with port 99999": "[::1]:99999",
    "None": None,
    "number": 11211,
    "bytes": b"127.0.0.1",
    "empty tuple": (),
    "tuple of one": ("127.0.0.1",),
    "tuple of host and port": ("127.0.0.1", 11211),
    "tuple of four": (1, "127.0.0.1", 11211, 1),
    "tuple of unknown type": (9, "127.0.0.1", 11211),
    "tuple of text": (1, "127.0.0.1", "11211"),
    "tuple with port -1": (1, "127.0.0.1", -1),
    "tuple with port 0": (1, "127.0.0.1", 0),
    "tuple with port 65536": (1, "127.0.0.1", 65536),
    "tuple with NUL": (1, "127.0.0.1\0evil", 11211),
    "list": ["127.0.0.1", 11211],
}


@pytest.mark.parametrize(
    "arguments",
    [
        {"servers": []},
        {"servers": ["127.0.0.1"], "behaviors": {"hash": "none"}},
        {"servers": ["127.0.0.1"], "username": "ada", "binary": True},
    ],
)
def test_client_that_could_not_be_made_ends_no_process(arguments: dict[str, Any]) -> None:
    """The C code divides by its number of servers."""

    class Stubborn(Client):
        def __init__(self) -> None:
            with contextlib.suppress(TypeError, ValueError, pylibmc.Error):
                super().__init__(**arguments)

    def work() -> None:
        mc = Stubborn()
        with pytest.raises(RuntimeError, match=r"its __init__\(\) has failed"):
            mc.hash("key")

    succeeds(in_child(work))


@pytest.mark.parametrize("what", BAD_SERVERS)
def test_bad_server_is_refused_at_construction(what: str) -> None:
    server = BAD_SERVERS[what]
    for servers in ([server], ["127.0.0.1", server]):
        with pytest.raises((ValueError, TypeError)) as refused:
            Client(servers)
        # So that one of a hundred is found.
        assert repr(server) in str(refused.value)
    with pytest.raises((ValueError, TypeError)):
        Client(["127.0.0.1"]).with_servers([server])


@pytest.mark.parametrize("servers", ["", b"", None, 5, [], ()])
def test_no_servers_are_refused_at_construction(servers: Any) -> None:
    with pytest.raises((ValueError, TypeError, pylibmc.Error)):
        Client(servers)


def test_servers_that_pylibmc_takes_are_taken(address: str) -> None:
    host, _, port = address.rpartition(":")
    for server in (address, f"{address}:3", (1, host, int(port)), f"[{host}]:{port}"):
        if server == f"[{host}]:{port}":
            Client([server])  # an address of IPv6 would be in there
        else:
            assert Client([server]).set("key", "value")  # type: ignore[list-item]


# -- Numbers

#: The call, the number that its error shows, and whether it has one key to show.
OUT_OF_RANGE: dict[str, tuple[Callable[[Any], object], int, bool]] = {
    "touch -1": (lambda mc: mc.touch("the-key", -1), -1, True),
    "touch 2**32": (lambda mc: mc.touch("the-key", 2**32), 2**32, True),
    "touch 2**64": (lambda mc: mc.touch("the-key", 2**64), 2**64, True),
    "flush_all -5": (lambda mc: mc.flush_all(-5), -5, False),
    "flush_all 2**32": (lambda mc: mc.flush_all(2**32), 2**32, False),
    "flush_all 2**64": (lambda mc: mc.flush_all(2**64), 2**64, False),
    "incr -1": (lambda mc: mc.incr("the-key", -1), -1, True),
    "incr 2**64": (lambda mc: mc.incr("the-key", 2**64), 2**64, True),
    "decr -1": (lambda mc: mc.decr("the-key", -1), -1, True),
    "decr 2**64": (lambda mc: mc.decr("the-key", 2**64), 2**64, True),
    "incr_multi -1": (lambda mc: mc.incr_multi(["the-key"], delta=-1), -1, False),
    "incr_multi 2**32": (lambda mc: mc.incr_multi(["the-key"], delta=2**32), 2**32, False),
    "incr_multi 2**64": (lambda mc: mc.incr_multi(["the-key"], delta=2**64), 2**64, False),
    "cas -1": (lambda mc: mc.cas("the-key", 1, -1), -1, True),
    "cas 0": (lambda mc: mc.cas("the-key", 1, 0), 0, True),
    "cas 2**64": (lambda mc: mc.cas("the-key", 1, 2**64), 2**64, True),
    "cas, time -1": (lambda mc: mc.cas("the-key", 1, 1, -1), -1, True),
    "cas, time 2**32": (lambda mc: mc.cas("the-key", 1, 1, 2**32), 2**32, True),
}
for _name in ("set", "add", "replace", "append", "prepend"):
    for _option, _number in (
        ("time", -1),
        ("time", 2**32),
        ("time", 2**64),
        ("min_compress_len", -1),
        ("min_compress_len", 2**32),
        ("min_compress_len", 2**64),
        ("compress_level", -2),
        ("compress_level", 10),
        ("compress_level", 2**32),
    ):
        OUT_OF_RANGE[f"{_name}, {_option} {_number}"] = (
            lambda mc, name=_name, option=_option, number=_number: getattr(mc, name)(  # type: ignore[misc]
                "the-key", "1", **{option: number}
            ),
            _number,
            True,
        )
        if _name in ("set", "add"):
            OUT_OF_RANGE[f"{_name}_multi, {_option} {_number}"] = (
                lambda mc, name=_name, option=_option, number=_number: getattr(  # type: ignore[misc]
                    mc, f"{name}_multi"
                )({"the-key": "1"}, **{option: number}),
                _number,
                False,
            )


@pytest.mark.parametrize("what", OUT_OF_RANGE)
def test_number_out_of_range_is_refused_before_the_wire(
    mc: Client, server_connections: Connections, what: str
) -> None:
    call, number, has_key = OUT_OF_RANGE[what]
    cas_mc = Client(mc.addresses, {"cas": True})
    before = server_connections.opened()
    with pytest.raises((ValueError, OverflowError)) as refused:
        call(cas_mc)
    assert server_connections.opened() == before
    assert str(number) in str(refused.value)
    assert not has_key or "the-key" in str(refused.value)


@pytest.mark.parametrize("zero", [0, False])
def test_value_of_cas_cannot_become_a_command(address: str, zero: int) -> None:
    """libmemcached sends no cas that is 0. memcached then reads the value as commands."""
    mc = Client([address], {"cas": True})
    mc.set("key", "before")
    with pytest.raises(ValueError, match="cas must be 1 to"):
        mc.cas("key", b"\r\nset evil 0 0 4\r\nevil", zero)
    assert mc.get_multi(["key", "evil"]) == {"key": "before"}


@pytest.mark.parametrize("number", [None, 1.5, math.nan, "1", b"1", [], Nothing])
def test_what_is_no_number_is_refused_before_the_wire(
    mc: Client, server_connections: Connections, number: Any
) -> None:
    cas_mc: Any = Client(mc.addresses, {"cas": True})
    before = server_connections.opened()
    calls: list[Call] = [
        lambda: cas_mc.set("key", 1, number),
        lambda: cas_mc.set("key", 1, min_compress_len=number),
        lambda: cas_mc.set("key", 1, compress_level=number),
        lambda: cas_mc.set_multi({"key": 1}, number),
        lambda: cas_mc.set_multi({"key": 1}, min_compress_len=number),
        lambda: cas_mc.set_multi({"key": 1}, compress_level=number),
        lambda: cas_mc.cas("key", 1, number),
        lambda: cas_mc.cas("key", 1, 1, number),
        lambda: cas_mc.incr("key", number),
        lambda: cas_mc.decr("key", number),
        lambda: cas_mc.incr_multi(["key"], delta=number),
        lambda: cas_mc.touch("key", number),
        lambda: cas_mc.flush_all(number),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert server_connections.opened() == before


@pytest.mark.parametrize(
    "one",
    [True, Colour.RED, NoText(1), NoNumber(1)],
    ids=["bool", "IntEnum", "no text", "no int"],
)
def test_subclass_of_int_is_a_number(mc: Client, one: Any) -> None:
    cas_mc = Client(mc.addresses, {"cas": True})
    delta = int.__add__(one, 0)
    mc.set("number", 10)
    assert mc.incr("number", one) == 10 + delta
    assert mc.decr("number", one) == 10
    mc.incr_multi(["number"], delta=one)
    assert mc.get("number") == 10 + delta
    assert mc.set("key", "value", time=int.__add__(one, 0) + 1000)
    assert mc.touch("key", 1000 + delta) is True
    _, cas = cas_mc.gets("key")
    assert cas_mc.cas("key", "other", type(one)(cas) if type(one) is NoText else cas)


def test_largest_numbers_that_are_allowed(mc: Client) -> None:
    mc.set("number", 0)
    assert mc.incr("number", 2**31 - 1) == 2**31 - 1
    assert mc.decr("number", 2**31 - 1) == 0
    assert mc.incr("number", 0) == 0
    assert mc.set("key", "value", time=2**31 - 1)
    assert mc.set("key", "value" * 10, min_compress_len=2**31 - 1, compress_level=0)
    assert mc.set_multi({"key": "value"}, time=2**31 - 1, compress_level=9) == []
    assert mc.touch("key", 2**31 - 1) is True
    assert mc.get("key") == "value"


# -- Values


@pytest.mark.servers
@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), Colour.RED, Seven(7), NoText(7), NoNumber(7), True, 2**64 + 5],
    ids=["10**5000", "-10**5000", "IntEnum", "words", "no text", "no int", "bool", "2**64 + 5"],
)
def test_integers_come_back_equal(address: str, value: Any) -> None:
    equal = int.__add__(value, 0)

    def work() -> None:
        mc = Client([address], {"cas": True})
        writes: list[Callable[[str], object]] = [
            lambda key: mc.set(key, value),
            lambda key: mc.add(key, value),
            lambda key: mc.set(key, 1) and mc.replace(key, value),
            lambda key: mc.set(key, 1) and mc.cas(key, value, mc.gets(key)[1]),
            lambda key: mc.set_multi({key: value}) == [],
            lambda key: mc.add_multi({key: value}) == [],
            lambda key: mc.set(key, value, min_compress_len=1),
        ]
        for number, write in enumerate(writes):
            key = f"key{number}"
            assert write(key)
            for found in (mc.get(key), mc.gets(key)[0], mc.get_multi([key])[key]):
                assert found == equal
                assert type(found) is int
        data, flags = mc.serialize(value)
        assert mc.deserialize(data, flags) == equal

    succeeds(in_child(work))


WRITES: list[Callable[[Client], object]] = [
    lambda mc: mc.set("key", 5),
    lambda mc: mc.set_multi({"key": 5}),
    lambda mc: mc.cas("key", 5, 1),
    lambda mc: mc.serialize(5),
]


@pytest.mark.servers
@pytest.mark.parametrize("write", WRITES, ids=["set", "set_multi", "cas", "serialize"])
def test_signal_handler_raises_while_an_integer_is_written(
    address: str, write: Callable[[Client], object]
) -> None:
    """pylibmc writes it with a function of Python that runs signal handlers."""

    class Alarm(BaseException):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    def work() -> None:
        mc = Client([address], {"cas": True})
        mc.set("key", 1)
        signal.signal(signal.SIGALRM, handler)
        dice = random.Random(20090920)

        def write_until_the_alarm() -> None:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 2e-4))
            while True:
                write(mc)

        for _ in range(3000):
            with pytest.raises(Alarm):
                write_until_the_alarm()

    succeeds(in_child(work))


@pytest.mark.servers
@pytest.mark.parametrize("write", WRITES, ids=["set", "set_multi", "cas", "serialize"])
def test_integer_is_written_at_the_recursion_limit(
    address: str, write: Callable[[Client], object]
) -> None:
    def work() -> None:
        mc = Client([address], {"cas": True})
        mc.set("key", 5)

        def write_deeper_and_deeper() -> None:
            write(mc)
            write_deeper_and_deeper()

        with pytest.raises(RecursionError):
            write_deeper_and_deeper()
        assert mc.get("key") == 5

    succeeds(in_child(work))


@pytest.mark.servers
def test_integer_subclass_counts(address: str) -> None:
    def work() -> None:
        mc = Client([address])
        for number in (Colour.RED, Seven(7), NoText(7), NoNumber(7)):
            assert mc.set("count", number)
            assert mc.incr("count") == 8

    succeeds(in_child(work))


@pytest.mark.servers
@pytest.mark.parametrize("flags", [0, 1, 2, 4, 8, 16, 2**32 - 1])
def test_only_bytes_are_deserialized(flags: int) -> None:
    def work() -> None:
        values: list[Any] = [5, "1", [], object, 1.5]
        for value in values:
            with pytest.raises(TypeError):
                Client(["127.0.0.1"]).deserialize(value, flags)

    succeeds(in_child(work))


@pytest.mark.parametrize("flags", [-1, 2**32, 2**32 + 4, 2**64])
def test_flags_out_of_range_are_refused(flags: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Client(["127.0.0.1"]).deserialize(b"5", flags)


def test_serialize_and_deserialize_are_each_others_inverse() -> None:
    mc = Client(["127.0.0.1"])
    values: list[Any] = [b"", b"bytes", "", "text", "ключ", 5, 0, True, 1.5, None, ["list"], {}]
    for value in values:
        assert mc.deserialize(*mc.serialize(value)) == value


def test_subclasses_of_text_and_bytes_are_stored_as_what_they_are(mc: Client) -> None:
    values: dict[Any, Any] = {
        "text": TextWithoutEnd("x" * 300),
        "bytes": BytesWithoutEnd(b"x" * 300),
    }
    assert mc.set_multi(values) == []
    assert mc.set("one", TextWithoutEnd("y" * 300), min_compress_len=10)
    assert mc.get_multi(["text", "bytes"]) == {"text": "x" * 300, "bytes": b"x" * 300}
    assert mc.get("one") == "y" * 300


# -- Keys

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


class SaysItIsFalse(int):
    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@pytest.mark.parametrize("number", [-5, 2**32 + 5])
def test_number_that_says_it_is_false_is_checked(mc: Client, number: int) -> None:
    lie = SaysItIsFalse(number)
    calls: list[Call] = [
        lambda: mc.set("k", "v", lie),
        lambda: mc.set("k", "v", 0, lie),
        lambda: mc.set("k", "v", 0, 0, lie),
        lambda: mc.set_multi({"k": "v"}, lie),
        lambda: mc.set_multi({"k": "v"}, 0, None, lie),
        lambda: mc.set_multi({"k": "v"}, 0, None, 0, lie),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must be"):
            call()
