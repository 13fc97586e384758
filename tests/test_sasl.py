"""Logins with SASL at a real memcached: they work, or fail clearly and seldom."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import eventually, has_libmemcached_1_1, in_threads, run_python
from secured import PAGES, REALM, Users, memcached

from mcpool_wsgi import Client, ClientPool, PooledClient, ThreadMappedPool
from mcpool_wsgi.client.failures import LoginFailed
from mcpool_wsgi.config import client_from_environ, client_from_url

pytestmark = pytest.mark.servers

USER = f"app@{REALM}"
PASSWORD = "s3cret/right"
WRONG = "s3cret/wrong"
COMMANDS: dict[str, tuple[Any, ...]] = {
    "get": ("key",),
    "gets": ("key",),
    "get_multi": (["key", "other"],),
    "set": ("key", "value"),
    "add": ("key", "value"),
    "replace": ("key", "value"),
    "append": ("key", "value"),
    "cas": ("key", "value", 1),
    "set_multi": ({"key": "value"},),
    "incr": ("key",),
    "incr_multi": (["key"],),
    "delete": ("key",),
    "delete_multi": (["key"],),
    "touch": ("key", 10),
    "get_stats": (),
    "flush_all": (),
}


@pytest.fixture
def users(tmp_path: Path) -> Users:
    users = Users(tmp_path)
    users.set_password("app", PASSWORD)
    return users


@pytest.fixture
def server(users: Users, tmp_path: Path) -> Iterator[str]:
    with memcached(tmp_path, "-S", "-vv", environ=users.environ) as address:
        yield address


def is_documented(error: object, server: str) -> bool:
    """Whether the page on SASL has the text of *error*."""
    page = (PAGES / "sasl.md").read_text(encoding="utf-8")
    return f"`{str(error).replace(server, '10.0.1.1:11211')}`" in page


def client(*servers: str, password: str = PASSWORD, **options: Any) -> Client:
    return Client(servers, {"cas": True}, True, USER, password, **options)


# -- The right password


def test_right_password_works_in_every_kind_of_pool(server: str) -> None:
    for pool in (ClientPool(client(server), 2), ThreadMappedPool(client(server))):
        with pool.reserve() as mc:
            assert mc.set("key", ["value"])
            assert mc.get("key") == ["value"]
        assert PooledClient(pool).get_multi(["key", "missing"]) == {"key": ["value"]}
        assert pool.stats().failures == 0


def test_configuration_may_have_the_credentials(server: str) -> None:
    environ = {"SERVERS": server, "USERNAME": USER, "PASSWORD": PASSWORD}
    clients = [
        client_from_environ({f"MEMCACHED_{name}": value for name, value in environ.items()}),
        client_from_url(f"memcached://app%40{REALM}:s3cret%2Fright@{server}/?fail_soft=true"),
    ]
    for mc in clients:
        assert mc.set("key", "value")
        assert mc.get("key") == "value"


def test_every_server_is_logged_in_at(users: Users, server: str, tmp_path: Path) -> None:
    with memcached(tmp_path, "-S", "-vv", log="second.log", environ=users.environ) as second:
        mc = client(server, second)
        values: dict[str | bytes, int] = {f"key{number}": number for number in range(100)}
        assert mc.set_multi(values) == []
        assert mc.get_multi(list(values)) == values
        assert users.logins() == 1


def test_server_that_is_down_fails_no_command_for_another(server: str) -> None:
    """A client of several servers logs in at the one that has the key."""
    mc = client("127.0.0.1:1", server)
    key = next(f"key{number}" for number in range(100) if mc.hash(f"key{number}") == 1)
    assert mc.set(key, "value")
    assert mc.get(key) == "value"


@pytest.mark.parametrize("in_child", FORKS)
def test_child_logs_in_on_a_connection_of_its_own(
    users: Users, server: str, in_child: Callable[[Callable[[], object]], int]
) -> None:
    pool = ClientPool(client(server), 2)

    def use(value: str) -> None:
        with pool.reserve() as mc:
            mc.set("key", value)
            assert mc.get("key") == value

    use("parent")
    succeeds(in_child(lambda: use("child")))
    use("parent")
    assert users.logins() == 2


class _Letters(ctypes.Structure):
    _fields_ = [("letters", ctypes.c_char * 32768)]


@pytest.mark.parametrize("command", COMMANDS)
def test_right_password_works_whatever_is_on_the_stack(
    users: Users, server: str, tmp_path: Path, command: str
) -> None:
    """libmemcached 1.0 takes what is there for a part of a mechanism's name."""
    letters = _Letters()
    ctypes.memset(ctypes.byref(letters), ord("U"), ctypes.sizeof(letters))
    getpid: Any = ctypes.CDLL(None).getpid
    getpid.argtypes = (_Letters,)

    def run(mc: Any) -> None:
        getpid(letters)
        getattr(mc, command)(*COMMANDS[command])

    with memcached(tmp_path, "-S", "-vv", log="second.log", environ=users.environ) as second:
        client(server).set("key", 1)
        run(client(server))
        both = client(server, second)
        both.set("key", 1)
        run(both.clone())
    if not has_libmemcached_1_1():
        with pytest.raises(pylibmc.Error):
            run(pylibmc.Client([server], {"cas": True}, True, USER, PASSWORD))


# -- The wrong password


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_password_is_an_error_that_names_the_server(server: str, command: str) -> None:
    mc = client(server, password=WRONG)
    with pytest.raises(LoginFailed) as caught:
        getattr(mc, command)(*COMMANDS[command])
    assert isinstance(caught.value, pylibmc.Error)
    assert is_documented(caught.value, server)
    with pytest.raises(pylibmc.Error, match=f"{server} refused the login .* less than 1 s ago"):
        getattr(mc, command)(*COMMANDS[command])


def test_wrong_password_is_a_miss_with_fail_soft(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ClientPool(client(server, password=WRONG, fail_soft=True), 2)
    for _ in range(10):
        with pool.reserve() as mc:
            assert mc.set("key", "value") is False
            assert mc.get("key", "nothing") == "nothing"
            assert mc.get_multi(["key"]) == {}
    assert pool.stats().failures == 30
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert f"{server} refused the login" in warning.getMessage()


@pytest.mark.parametrize("fail_soft", [True, False])
@pytest.mark.parametrize("kind", ["bounded", "thread-mapped"])
def test_wrong_password_is_tried_once_a_second_by_each_client(
    users: Users, server: str, kind: str, fail_soft: bool
) -> None:
    master = client(server, password=WRONG, fail_soft=fail_soft)
    pool = ClientPool(master, 8) if kind == "bounded" else ThreadMappedPool(master)
    began = time.monotonic()

    def work() -> None:
        for number in range(1000):
            with pool.reserve() as mc:
                try:
                    assert mc.get(f"key{number}") is None
                except pylibmc.Error:
                    assert not fail_soft

    in_threads([work] * 8)
    seconds = time.monotonic() - began
    # Each slot may get a new client once a second, and each client may try once a second.
    assert 1 <= users.logins() <= users.connections() <= 8 * 2 * (seconds + 1)


def test_wrong_password_is_tried_seldom_at_several_servers(
    users: Users, server: str, tmp_path: Path
) -> None:
    with memcached(tmp_path, "-S", "-vv", environ=users.environ) as second:  # into the same log
        mc = client(server, second, password=WRONG)
        began = time.monotonic()
        for number in range(10_000):
            with pytest.raises(pylibmc.Error):
                mc.get(f"key{number}")
        seconds = time.monotonic() - began
        assert 1 <= users.logins() <= 2 * (seconds + 1)
        with pytest.raises(pylibmc.Error, match=r"refused the login|DEAD"):
            mc.get("key")


def test_password_that_becomes_right_is_noticed(users: Users, server: str) -> None:
    users.set_password("app", WRONG)
    pool = ClientPool(client(server), 2)

    def works() -> bool:
        with pool.reserve() as mc:
            try:
                return mc.get("missing") is None
            except pylibmc.Error:
                return False

    assert not works()
    users.set_password("app", PASSWORD)
    eventually(works)
    assert all(works() for _ in range(10))


def test_password_that_becomes_wrong_is_noticed_when_the_server_restarts(
    users: Users, tmp_path: Path
) -> None:
    with ExitStack() as first:
        address = first.enter_context(memcached(tmp_path, "-S", "-vv", environ=users.environ))
        mc = client(address)
        assert mc.set("key", "value")
        users.set_password("app", WRONG)
        assert mc.get("key") == "value"  # memcached asks once per connection
        first.close()
        port = int(address.rpartition(":")[2])
        with memcached(tmp_path, "-S", "-vv", port=port, environ=users.environ):

            def is_refused() -> bool:
                with pytest.raises(pylibmc.Error) as caught:
                    mc.set("key", "value")
                return isinstance(caught.value, LoginFailed)

            eventually(is_refused)


def test_no_password_is_shown(users: Users, server: str) -> None:
    mc = client(server, password=WRONG)
    pool = ClientPool(mc, 1)
    shown = [f"{mc!r} {mc!s} {pool!r} {pool.stats()!r}"]
    for _ in range(2):  # refused, and at rest
        with pool.reserve() as lent, pytest.raises(pylibmc.Error) as caught:
            lent.get("key")
        shown.append(f"{lent!r} {lent!s}")
        shown += traceback.format_exception(type(caught.value), caught.value, None)
        shown.append(repr(vars(caught.value)))
    for bad in ({"servers": ["/a/socket"]}, {"servers": ["cache"], "binary": False}):
        arguments = {"binary": True, "username": USER, "password": WRONG, **bad}
        with pytest.raises((TypeError, ValueError)) as refused:
            Client(**arguments)  # type: ignore[arg-type]
        shown.append(str(refused.value))
    assert "refused the login" in " ".join(shown)
    assert WRONG not in " ".join(shown)


# -- What is not set up


def test_username_needs_a_tcp_server() -> None:
    """libmemcached would send no login, and would report no error."""
    with pytest.raises(ValueError, match=r"a username needs .* not '/run/memcached.sock'"):
        client("cache:11211", "/run/memcached.sock")


@pytest.mark.parametrize("command", ["get", "gets", "get_multi", "set", "add", "touch", "delete"])
def test_client_without_a_username_is_told_that_it_needs_one(server: str, command: str) -> None:
    """pylibmc takes the answer to a read for a miss."""
    mc = Client([server], {"cas": True}, binary=True)
    with pytest.raises(LoginFailed) as caught:
        getattr(mc, command)(*COMMANDS[command])
    assert is_documented(caught.value, server)


def test_read_without_a_username_is_a_miss_that_is_counted(server: str) -> None:
    pool = ClientPool(Client([server], binary=True, fail_soft=True), 1)
    assert PooledClient(pool).get("key") is None
    assert pool.stats().failures == 1
    pool.close()


def test_memcached_without_sasl_is_an_error_that_names_the_server(tmp_path: Path) -> None:
    with memcached(tmp_path) as address:
        with pytest.raises(LoginFailed) as caught:
            client(address).get("key")
        assert is_documented(caught.value, address)


GETS = """
import sys
from mcpool_wsgi import Client
mc = Client([sys.argv[1]], binary=True, username=sys.argv[2], password=sys.argv[3])
for _ in range(100):
    try:
        print(mc.get("key"))
    except Exception as error:
        print(error)
"""


def hundred_gets(server: str, mechanisms: Path) -> list[str]:
    """What a process prints that looks for its mechanisms in the directory *mechanisms*."""
    environ = {**os.environ, "SASL_PATH": str(mechanisms)}
    done = run_python(GETS, server, USER, PASSWORD, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_missing_mechanism_is_an_error_that_names_the_variable(
    users: Users, server: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    before = users.connections()
    shown = hundred_gets(server, empty)
    assert len(shown) == 100
    assert is_documented(shown[0], server)
    assert all(line.startswith(shown[0]) for line in shown)
    assert users.connections() - before <= 2  # 100 commands take less than a second


def test_server_that_does_not_answer_a_login_is_a_time_out_and_rests() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        mc = client(f"127.0.0.1:{listener.getsockname()[1]}", command_timeout=0.3)
        for _ in range(100):
            with pytest.raises(pylibmc.Error):
                mc.get("key")
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_server_must_offer_plain_only_if_the_client_has_other_mechanisms(
    users: Users, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in users.mechanisms:
        (plain / file.name).symlink_to(file)
    configuration = tmp_path / "memcached.conf"
    configuration.write_text(configuration.read_text().replace("mech_list: plain", ""))
    with memcached(tmp_path, "-S", "-vv", environ=users.environ) as address:
        if has_libmemcached_1_1():
            assert client(address).get("key") is None
            return
        with pytest.raises(LoginFailed) as caught:
            client(address).get("key")
        assert is_documented(caught.value, address)
        assert hundred_gets(address, plain) == ["None"] * 100
