"""Every public name takes hostile arguments, and no process ends by them."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from pathlib import Path
from typing import Any, Callable

import pylibmc
import pytest
from forking import in_child, succeeds
from hostile_values import BAD_SERVERS, HOSTILE, Call, Hostile, NoNumber, NoText
from mortal import Mortal

from mcpool_wsgi import Client

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
