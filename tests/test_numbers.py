"""Numbers that commands take: those out of range are refused before the wire."""

from __future__ import annotations

import math
from typing import Any, Callable

import pytest
from harness import Connections
from hostile_values import Call, Colour, NoNumber, NoText, Nothing
from werkzeug.local import LocalProxy

from mcpool_wsgi import Client

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
def test_argument_that_is_no_number_is_refused_before_the_wire(
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
    "one", [True, Colour.RED, NoText(1), NoNumber(1)], ids=["bool", "IntEnum", "no text", "no int"]
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


def test_largest_numbers_that_are_allowed_are_taken(mc: Client) -> None:
    mc.set("number", 0)
    assert mc.incr("number", 2**31 - 1) == 2**31 - 1
    assert mc.decr("number", 2**31 - 1) == 0
    assert mc.incr("number", 0) == 0
    assert mc.set("key", "value", time=2**31 - 1)
    assert mc.set("key", "value" * 10, min_compress_len=2**31 - 1, compress_level=0)
    assert mc.set_multi({"key": "value"}, time=2**31 - 1, compress_level=9) == []
    assert mc.touch("key", 2**31 - 1) is True
    assert mc.get("key") == "value"


class SaysItIsFalse(int):
    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return True

    __ge__ = __le__
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


@pytest.mark.parametrize(
    "behavior", ["_io_msg_watermark", "num_replicas", "_noreply", "buffer_requests", "cas"]
)
def test_behavior_that_lies_about_its_size_is_checked(mc: Client, behavior: str) -> None:
    lie = SaysItIsFalse(0 if behavior == "_io_msg_watermark" else 2**31)
    with pytest.raises(ValueError, match=f"{behavior} must be"):
        mc.set_behaviors({behavior: lie})
    with pytest.raises(ValueError, match=f"{behavior} must be"):
        Client(mc.addresses, {behavior: lie})


def test_proxy_is_refused_with_an_error_that_says_what_is_wanted(mc: Client) -> None:
    """A proxy says that it is what it stands for."""
    five: Any = LocalProxy(lambda: 5)
    calls: list[Call] = [lambda: mc.set("the-key", 1, five), lambda: mc.incr("the-key", five)]
    for call in calls:
        with pytest.raises(TypeError, match=r"must be an int, not LocalProxy, .* 'the-key'"):
            call()
    for key in ("key", b"key"):
        with pytest.raises(TypeError, match="a memcached key is str or bytes, not LocalProxy"):
            mc.get(LocalProxy(lambda: key))  # type: ignore[arg-type]  # noqa: B023
    with pytest.raises(TypeError, match="behavior cas must be int, not LocalProxy"):
        mc.set_behaviors({"cas": five})
