"""The message of an error says what was given, what is wanted, and what to do.

The messages of the examples are in ``test_examples.py``, those of the configuration in
``test_config.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from typing import Any, Callable

import pylibmc
import pytest
from harness import EXAMPLES, free_port

from mcpool_wsgi import (
    Client,
    ClientPool,
    InvalidKey,
    MemcachedPoolMiddleware,
    PooledClient,
    ThreadMappedPool,
    get_client,
)

ADDRESS_FORMS = "'host', 'host:port', '[IPv6]:port' or '/path/to/socket'"


def says(error: type[BaseException], parts: list[str], call: Callable[[], object]) -> None:
    """Check that *call* raises *error* with all *parts* in its message."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


# -- Servers


Row = tuple[Any, type[Exception], list[str]]
SERVERS: dict[str, Row] = {
    "path is too long": (["/" + "x" * 110], ValueError, ["because its path", "bytes"]),
    "port is a word": (
        ["localhost:abc"],
        ValueError,
        ["'localhost:abc' is not", "its port is 'abc'", ADDRESS_FORMS, "1 to 65535"],
    ),
    "port is too large": (
        ["localhost:99999"],
        ValueError,
        ["'localhost:99999' is not", "its port is '99999'", "1 to 65535"],
    ),
    "port is a word, IPv6": (["[::1]:abc"], ValueError, ["'[::1]:abc'", "its port is 'abc'"]),
    "UDP": (["udp:host:11211"], ValueError, ["'udp:host:11211' is not", "over UDP"]),
    "port has a space": (["host: 11"], ValueError, ["its port is ' 11'"]),
    "port has an underscore": (["host:1_1"], ValueError, ["its port is '1_1'"]),
    "port has a sign": (["[::1]:+1"], ValueError, ["'[::1]:+1' is not"]),
    "weight has a space": (["host:11211: 2"], ValueError, ["'host:11211: 2' is not"]),
    "two hosts": (["one,other"], ValueError, ["'one,other' is not", ADDRESS_FORMS]),
    "path after the host": (["host/path:1"], ValueError, ["'host/path:1' is not"]),
    "query after the host": (["host?lazy=1"], ValueError, ["'host?lazy=1' is not"]),
    "brackets in brackets": (["[[::1]]:1"], ValueError, ["'[[::1]]:1' is not"]),
    "bracket after the host": (["host]"], ValueError, ["'host]' is not", ADDRESS_FORMS]),
    "password before the host": (["secret@host"], ValueError, ["may contain a password"]),
    "host is too long": (["h" * 1025], ValueError, ["is not the address"]),
    "host and port as a tuple": (
        [("127.0.0.1", 11211)],
        TypeError,
        ["('127.0.0.1', 11211) is not", "write '127.0.0.1:11211'"],
    ),
    "tuple of another form": ([(1, "host", 0)], ValueError, ["(1, 'host', 0) is not"]),
    "tuple in place of the list": (
        ("127.0.0.1", 11211),
        TypeError,
        ["11211 is not the address", ADDRESS_FORMS],
    ),
    "empty address": ([""], ValueError, ["'' is not", "it is empty", ADDRESS_FORMS]),
    "no address": ([], ValueError, ["servers is empty", ADDRESS_FORMS]),
    "one address": (
        "localhost",
        TypeError,
        ["list of addresses", "not a single one: 'localhost'"],
    ),
    "None": (None, TypeError, ["list of addresses", "not None"]),
    "URL": (
        ["memcached://localhost"],
        ValueError,
        ["'memcached://localhost' is not", "mcpool_wsgi.config.client_from_url()"],
    ),
    "URL with a password": (
        ["memcached://me:secret@host"],
        ValueError,
        ["may contain a password"],
    ),
}


@pytest.mark.parametrize("row", SERVERS)
def test_wrong_servers_are_named(row: str) -> None:
    servers, error, parts = SERVERS[row]
    says(error, parts, lambda: Client(servers))


@pytest.mark.parametrize("row", SERVERS)
def test_wrong_servers_are_named_when_a_pool_gets_them_too(mc: Client, row: str) -> None:
    servers, error, parts = SERVERS[row]
    says(error, parts, lambda: ClientPool(mc, 1).set_servers(servers))


# -- Commands


class Cyclic:
    """A value that no serializer takes."""

    def __reduce__(self) -> Any:
        raise ValueError("this is a circle")


LOCK = threading.Lock()
TOO_LARGE = b"x" * (2 << 20)
IS_TOO_LARGE = ["'the-key'", "1 MiB", "-I", "2097152 bytes", "min_compress_len"]
COMMANDS: dict[str, tuple[type[Exception], list[str], Callable[[Any], object]]] = {
    "value of 2 MiB": (pylibmc.TooBig, IS_TOO_LARGE, lambda mc: mc.set("the-key", TOO_LARGE)),
    "value of 2 MiB, cas": (
        pylibmc.TooBig,
        IS_TOO_LARGE,
        lambda mc: mc.cas("the-key", TOO_LARGE, 1),
    ),
    "value of 2 MiB among many": (
        pylibmc.TooBig,
        IS_TOO_LARGE,
        lambda mc: mc.set_multi({"small": b"x" * 1000, "the-key": TOO_LARGE, "smaller": 1}),
    ),
    "value of 2 MiB among many, with a prefix": (
        pylibmc.TooBig,
        IS_TOO_LARGE,
        lambda mc: mc.add_multi({"the-key": TOO_LARGE}, key_prefix="p"),
    ),
    "value that cannot be pickled": (
        TypeError,
        ["'the-key'", "cannot be stored", "lock"],
        lambda mc: mc.set("the-key", LOCK),
    ),
    "value that cannot be pickled, cas": (
        TypeError,
        ["'the-key'", "lock"],
        lambda mc: mc.cas("the-key", [LOCK], 1),
    ),
    "value that cannot be pickled, item": (
        TypeError,
        ["'the-key'", "lock"],
        lambda mc: mc.__setitem__("the-key", LOCK),
    ),
    "value that cannot be pickled, among many": (
        TypeError,
        ["'the-key'", "lock"],
        lambda mc: mc.set_multi({"a": 1, "the-key": LOCK, "b": LOCK}, key_prefix="p"),
    ),
    "value that refuses to be pickled": (
        ValueError,
        ["'the-key'", "this is a circle"],
        lambda mc: mc.set("the-key", Cyclic()),
    ),
    "incr of a missing key": (
        pylibmc.NotFound,
        ["'the-key'", "add(key, 0)"],
        lambda mc: mc.incr("the-key"),
    ),
    "decr of a missing key": (
        pylibmc.NotFound,
        ["'the-key'", "add(key, 0)"],
        lambda mc: mc.decr("the-key"),
    ),
    "incr_multi of a missing key": (
        pylibmc.NotFound,
        ["the-key'", "add(key, 0)"],
        lambda mc: mc.incr_multi(["the-key"]),
    ),
    "incr of a text": (
        pylibmc.ClientError,
        ["'text'", "no number", "0 to 2**64 - 1"],
        lambda mc: (mc.set("text", "abc"), mc.incr("text")),
    ),
    "negative time to live": (
        ValueError,
        ["'the-key'", "time must be 0 to", "not -1"],
        lambda mc: mc.set("the-key", 1, time=-1),
    ),
    "negative time to live, touch": (
        ValueError,
        ["'the-key'", "seconds must be 0 to", "not -1"],
        lambda mc: mc.touch("the-key", -1),
    ),
    "key with a space": (
        InvalidKey,
        ["'the key'", "the byte b' '", "urllib.parse.quote()", "hash"],
        lambda mc: mc.get("the key"),
    ),
    "key with a space among many": (
        InvalidKey,
        ["'the key'", "the byte b' '", "urllib.parse.quote()", "hash"],
        lambda mc: mc.get_multi(["a", "the key"]),
    ),
    "key that is too long": (
        InvalidKey,
        ["'the-keythe-key", "1400 bytes", "250", "hash"],
        lambda mc: mc.get("the-key" * 200),
    ),
    "empty key": (InvalidKey, ["''", "is empty"], lambda mc: mc.incr("")),
    "list in place of a mapping": (
        TypeError,
        ["keys must be a mapping of keys to values, not list"],
        lambda mc: mc.set_multi(["a"]),
    ),
}


@pytest.mark.parametrize("fail_soft", [False, True])
@pytest.mark.parametrize("row", COMMANDS)
def test_wrong_argument_of_a_command_is_named(address: str, row: str, fail_soft: bool) -> None:
    master = Client([address], {"cas": True}, fail_soft=fail_soft)
    error, parts, call = COMMANDS[row]
    pool = ClientPool(master, 2)
    with pool.reserve() as lent:
        for mc in (master, lent, PooledClient(pool)):
            says(error, parts, lambda: call(mc))  # noqa: B023
            assert mc.set("still", "in sync")
            assert mc.get("still") == "in sync"


def test_value_that_json_refuses_is_named_by_its_key(address: str) -> None:
    mc = Client([address], serializer=json)
    for call in (
        lambda: mc.set("the-key", {1, 2}),
        lambda: mc.set_multi({"a": [], "the-key": {1, 2}}),
    ):
        says(TypeError, ["'the-key'", "set is not JSON serializable"], call)


def test_error_of_the_values_own_class_is_left_as_it_is(mc: Client) -> None:
    class Mine(Exception):
        pass

    class Refusing:
        def __reduce__(self) -> Any:
            raise Mine("not", 2, "be pickled") from KeyError("why")

    for call in (lambda: mc.set("key", Refusing()), lambda: mc.set_multi({"key": Refusing()})):
        with pytest.raises(Mine) as caught:
            call()
        assert caught.value.args == ("not", 2, "be pickled")
        assert isinstance(caught.value.__cause__, KeyError)


# -- No memcached there


ANY_COMMAND: dict[str, Callable[[Any], object]] = {
    "get": lambda mc: mc.get("key"),
    "gets": lambda mc: mc.gets("key"),
    "set": lambda mc: mc.set("key", 1),
    "incr": lambda mc: mc.incr("key"),
    "touch": lambda mc: mc.touch("key", 10),
    "delete": lambda mc: mc.delete("key"),
    "get_multi": lambda mc: mc.get_multi(["key"]),
    "set_multi": lambda mc: mc.set_multi({"key": 1}),
    "incr_multi": lambda mc: mc.incr_multi(["key"]),
    "get_stats": lambda mc: mc.get_stats(),
    "flush_all": lambda mc: mc.flush_all(),
}
NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize("server", [NOBODY, "/no/such/socket"])
@pytest.mark.parametrize("command", ANY_COMMAND)
def test_server_that_is_not_there_is_named(command: str, server: str) -> None:
    mc = Client([server], {"cas": True})
    for _ in range(2):  # the second one does not try the server again
        says(pylibmc.Error, [server], lambda: ANY_COMMAND[command](mc))


@pytest.mark.parametrize("command", ANY_COMMAND)
def test_server_that_is_not_there_is_named_by_a_lent_client(command: str) -> None:
    with ClientPool(Client([NOBODY], {"cas": True}), 1).reserve() as mc:
        for _ in range(2):
            says(pylibmc.Error, [NOBODY], lambda: ANY_COMMAND[command](mc))


def test_one_of_several_servers_that_is_not_there_is_named(address: str) -> None:
    mc = Client([NOBODY, address])
    errors = []
    for number in range(20):
        try:
            mc.set(f"key{number}", 1)
        except pylibmc.Error as error:
            errors.append(str(error))
    assert errors
    assert all(NOBODY in error for error in errors)


# -- Options


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"behaviors": {"hash": "nope"}}, ValueError, ["hash must be one of", "md5", "'nope'"]),
        ({"behaviors": {"hash": 6}}, ValueError, ["hash must be one of", "md5", "not 6"]),
        ({"behaviors": {"hash": ["md5"]}}, ValueError, ["hash must be one of", "not ['md5']"]),
        ({"behaviors": {"distribution": "nope"}}, ValueError, ["one of", "modula", "'nope'"]),
        ({"behaviors": {"ketama_hash": "nope"}}, ValueError, ["one of", "md5", "'nope'"]),
        ({"behaviors": {"connect_timeout": -1}}, ValueError, ["connect_timeout", "0 to", "-1"]),
        ({"command_timeout": -1}, ValueError, ["command_timeout", "positive", "seconds", "-1"]),
        ({"command_timeout": "1"}, TypeError, ["command_timeout", "number of seconds", "'1'"]),
    ],
)
def test_wrong_option_is_named(
    address: str, options: dict[str, Any], error: type[Exception], parts: list[str]
) -> None:
    says(error, parts, lambda: Client([address], **options))


# -- Pools and the middleware


NO_NUMBER: Any = "4"
NAN, INF = float("nan"), float("inf")
#: For arguments that type checkers refuse.
any_client: Any = Client
any_pool: Any = ClientPool
any_middleware: Any = MemcachedPoolMiddleware


def no_app(*args: Any) -> Any:
    raise AssertionError


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda mc: ClientPool(mc), ValueError, ["n_slots", "positive", "not 0", "threads"]),
        (lambda mc: ClientPool(mc, True), TypeError, ["n_slots", "int", "True"]),
        (lambda mc: any_pool(mc, 1, name=7), TypeError, ["name must be a str, not 7"]),
        (lambda mc: ClientPool(None, 3), TypeError, ["mc is missing", "3 slots"]),
        (lambda mc: any_pool(mc, None), TypeError, ["n_slots", "int", "None"]),
        (lambda mc: any_pool(None, "3"), TypeError, ["n_slots", "int", "'3'"]),
        (lambda mc: ClientPool(Client, 3), TypeError, ["mc must be a client", "<class"]),
        (
            lambda mc: any_pool(["a"], 3),
            TypeError,
            ["mc must be a client", "['a']: from_servers()"],
        ),
        (lambda mc: any_middleware(no_app, ClientPool), TypeError, ["pool", "<class"]),
        (
            lambda mc: any_client(["a"], behaviors=3),
            TypeError,
            ["behaviors must be a dict, not 3"],
        ),
        (lambda mc: mc.set_behaviors(3), TypeError, ["behaviors must be a dict, not 3"]),
        (
            lambda mc: any_client(["a"], binary="no"),
            TypeError,
            ["binary", "True or False", "'no'"],
        ),
        (
            lambda mc: any_client(["a"], fail_soft="no"),
            TypeError,
            ["fail_soft", "True or", "'no'"],
        ),
        (lambda mc: any_client(["a"], fail_soft=2), TypeError, ["fail_soft", "True or", "2"]),
        (lambda mc: any_client(["a"], allow_pickle="no"), TypeError, ["allow_pickle", "True or"]),
        (
            lambda mc: any_client(["a"], binary=True, username=3, password="p"),
            TypeError,
            ["username"],
        ),
        (lambda mc: any_client(["a"], None, True, "me", 5), TypeError, ["password must be a str"]),
        (
            lambda mc: mc.with_servers(["a"], 0),
            ValueError,
            ["command_timeout must be a positive number of seconds, not 0"],
        ),
        (lambda mc: ClientPool(mc, -1), ValueError, ["n_slots", "positive", "not -1"]),
        (lambda mc: ClientPool().fill(mc, 0), ValueError, ["n_slots", "positive", "not 0"]),
        (lambda mc: ThreadMappedPool(mc).fill(mc, 0), ValueError, ["n_slots", "not 0"]),
        (lambda mc: ClientPool(mc, NO_NUMBER), TypeError, ["n_slots", "int", "'4'"]),
        (lambda mc: any_pool(mc, 2.5), TypeError, ["n_slots", "int", "2.5"]),
        (lambda mc: ClientPool().fill(mc, NO_NUMBER), TypeError, ["n_slots", "int", "'4'"]),
        (lambda mc: ClientPool(mc, 1, timeout=-1), ValueError, ["timeout", "seconds", "-1"]),
        (lambda mc: ClientPool(mc, 1, timeout=NAN), ValueError, ["timeout", "seconds", "nan"]),
        (lambda mc: ClientPool(mc, 1, timeout=INF), ValueError, ["timeout", "seconds", "inf"]),
        (lambda mc: any_pool(mc, 1, timeout=None), TypeError, ["timeout", "seconds", "None"]),
        (lambda mc: any_pool(mc, 1, timeout="5"), TypeError, ["timeout", "seconds", "'5'"]),
        (lambda mc: any_pool(mc, 1, timeout=True), TypeError, ["timeout", "seconds", "True"]),
        (lambda mc: ClientPool(mc, 1).reserve(timeout=NAN), ValueError, ["timeout", "nan"]),
        (lambda mc: ClientPool(mc, 1).reserve(timeout=INF), ValueError, ["timeout", "inf"]),
        (lambda mc: ClientPool(mc, 1).reserve(timeout=-1), ValueError, ["timeout", "-1"]),
        (lambda mc: any_pool(5, 3), TypeError, ["mc must be a client", "5"]),
        (lambda mc: ThreadMappedPool(), TypeError, ["mc must be a client", "None"]),
        (lambda mc: ThreadMappedPool(["a"]), TypeError, ["mc must be a client", "['a']"]),
        (lambda mc: ThreadMappedPool(mc, master=mc), TypeError, ["mc and master"]),
        (lambda mc: MemcachedPoolMiddleware(no_app, mc), TypeError, ["reserve()", "Client(["]),
        (
            lambda mc: any_middleware(no_app, ClientPool(mc, 1), lazy="no"),
            TypeError,
            ["lazy must be True or False, not 'no'"],
        ),
        (
            lambda mc: any_middleware(no_app, ClientPool(mc, 1), server_timing="no"),
            TypeError,
            ["server_timing must be True or False, not 'no'"],
        ),
    ],
)
def test_wrong_argument_of_a_pool_or_a_middleware_is_named(
    mc: Client, call: Callable[[Any], object], error: type[Exception], parts: list[str]
) -> None:
    says(error, parts, lambda: call(mc))


def test_get_client_says_what_is_missing_in_front() -> None:
    says(KeyError, ["'mc.client'", "MemcachedPoolMiddleware(app, pool)"], lambda: get_client({}))
    says(KeyError, ["'mc.sessions'", "environ_key"], lambda: get_client({}, "mc.sessions"))


# -- Loopback is down


def test_example_says_what_to_do_if_loopback_is_down() -> None:
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("needs a network namespace of its own")
    app = [sys.executable, str(EXAMPLES / "app.py"), f"--port={free_port()}"]
    ended = subprocess.run(
        [*unshare, *app],
        env={**os.environ, "MEMCACHED_SERVERS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "cannot connect to 127.0.0.1:" in ended.stderr
    assert "Network is unreachable" in ended.stderr
    assert "ip link set lo up" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("secret", ["caf\udce9", "nul\0"])
def test_password_that_cannot_be_sent_is_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="password must be UTF-8 without NUL") as caught:
        Client(["127.0.0.1"], binary=True, username="user", password=secret)
    assert repr(secret) not in str(caught.value)
    says(ValueError, ["username"], lambda: Client(["127.0.0.1"], None, True, secret, "password"))


@pytest.mark.parametrize(
    "servers",
    [
        *(["me:secret@host"], ["me:secret@host:11211"], ["me:secret:more@host"]),
        *("me:secret@host", "memcached://me:secret@host"),
    ],
)
def test_possible_password_in_an_address_is_not_shown(servers: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="may contain a password") as refused:
        Client(servers)
    assert "secret" not in str(refused.value)
