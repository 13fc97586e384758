"""Values that the C code would crash on, cut, or take for something else."""

from __future__ import annotations

import gc
import random
import signal
from typing import Any, Callable

import pytest
from forking import in_child, succeeds
from hostile_values import BytesWithoutEnd, Colour, NoNumber, NoText, Seven, TextWithoutEnd

from mcpool_wsgi import Client, PickleForbidden


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
        safe = Client([address], allow_pickle=False)
        if abs(equal) == 10**5000:
            with pytest.raises(PickleForbidden):
                safe.serialize(value)
        else:
            assert safe.deserialize(*safe.serialize(value)) == equal

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
        gc.freeze()  # the finaliser of another test's client would swallow an alarm
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
def test_instance_of_a_subclass_of_int_can_be_incremented(address: str) -> None:
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
