"""The development server gives the answers of memcached 1.6.18."""

from __future__ import annotations

import contextlib
import gc
import re
import select
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pylibmc
import pytest
from bytewise import ask, command_line, connected, received
from harness import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpool_wsgi.devserver import Memcached
from mcpool_wsgi.devserver.commands import VERSION

pytestmark = pytest.mark.servers
KEY = b"k" * 250  # the longest valid key
LONG = b"k" * 251
FORMAT = b"CLIENT_ERROR bad command line format\r\n"
EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"
DELTA = b"CLIENT_ERROR invalid numeric delta argument\r\n"
NUMERIC = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
USAGE = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"
CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
ERROR = b"ERROR\r\n"
STORED = b"STORED\r\n"
LARGEST = 1024 * 1024 - 60  # the largest value of a one-byte key without flags


def stored(value: bytes, command: bytes = b"set") -> bytes:
    return b"%s a 0 0 %d\r\n%s\r\n" % (command, len(value), value)


def value(value: bytes, flags: int = 0) -> bytes:
    return b"VALUE a %d %d\r\n%s\r\nEND\r\n" % (flags, len(value), value)


#: Requests and their answers, byte for byte. ``CAS`` stands for a cas unique.
CONVERSATIONS: dict[str, tuple[bytes, bytes]] = {
    # storing and reading
    "set": (stored(b"x") + b"get a\r\n", STORED + value(b"x")),
    "set with flags": (b"set a 4294967295 0 1\r\nx\r\nget a\r\n", STORED + value(b"x", 2**32 - 1)),
    "set nothing": (stored(b"") + b"get a\r\n", STORED + value(b"")),
    "set a line end": (stored(b"x\r\ny") + b"get a\r\n", STORED + value(b"x\r\ny")),
    "set binary": (stored(bytes(range(256))) + b"get a\r\n", STORED + value(bytes(range(256)))),
    "set noreply": (b"set a 0 0 1 noreply\r\nx\r\nget a\r\n", value(b"x")),
    "set other last word": (b"set a 0 0 1 norepl\r\nx\r\n", STORED),
    "get nothing": (b"get a\r\n", b"END\r\n"),
    "get many": (
        b"set a 0 0 1\r\n1\r\nset b 5 0 2\r\n22\r\nget a c b a\r\n",
        STORED * 2 + b"VALUE a 0 1\r\n1\r\nVALUE b 5 2\r\n22\r\nVALUE a 0 1\r\n1\r\nEND\r\n",
    ),
    "get very many": (stored(b"x") + b"get " + b"b " * 5000 + b"a\r\n", STORED + value(b"x")),
    "gets": (stored(b"x") + b"gets a\r\n", STORED + b"VALUE a 0 1 CAS\r\nx\r\nEND\r\n"),
    "gat": (stored(b"x") + b"gat 0 a b\r\n", STORED + value(b"x")),
    "gats": (stored(b"x") + b"gats 60 a\r\n", STORED + b"VALUE a 0 1 CAS\r\nx\r\nEND\r\n"),
    "gat expires": (stored(b"x") + b"gat -1 a\r\nget a\r\n", STORED + value(b"x") + b"END\r\n"),
    "gat no key": (b"gat 0\r\n", b"END\r\n"),
    "gat bad exptime": (b"gat x a\r\n", EXPTIME),
    "add": (stored(b"x", b"add") + stored(b"y", b"add"), STORED + b"NOT_STORED\r\n"),
    "replace": (
        stored(b"x", b"replace") + stored(b"y") + stored(b"z", b"replace") + b"get a\r\n",
        b"NOT_STORED\r\n" + STORED * 2 + value(b"z"),
    ),
    "append and prepend": (
        stored(b"x", b"append")
        + stored(b"x", b"prepend")
        + b"set a 7 0 1\r\nx\r\nappend a 1 -1 1\r\n>\r\nprepend a 2 -1 1\r\n<\r\nget a\r\n",
        b"NOT_STORED\r\n" * 2 + STORED * 3 + value(b"<x>", 7),
    ),
    "append too much": (
        stored(b"x" * 600_000) + stored(b"x" * 600_000, b"append") + stored(b"x", b"append"),
        STORED + b"NOT_STORED\r\n" + STORED,
    ),
    "cas missing": (b"cas a 0 0 1 1\r\nx\r\n", b"NOT_FOUND\r\n"),
    "cas mismatch": (stored(b"x") + b"cas a 0 0 1 0\r\ny\r\n", STORED + b"EXISTS\r\n"),
    "cas noreply": (stored(b"x") + b"cas a 0 0 1 0 noreply\r\ny\r\n", STORED),
    "cas not a number": (b"cas a 0 0 1 x\r\n", FORMAT),
    "cas negative": (b"cas a 0 0 1 -1\r\n", FORMAT),
    "cas too few words": (b"cas a 0 0 1\r\n", ERROR),
    "delete": (stored(b"x") + b"delete a\r\ndelete a\r\n", STORED + b"DELETED\r\nNOT_FOUND\r\n"),
    "delete 0": (stored(b"x") + b"delete a 0\r\n", STORED + b"DELETED\r\n"),
    "delete noreply": (stored(b"x") + b"delete a noreply\r\nget a\r\n", STORED + b"END\r\n"),
    "delete 0 noreply": (b"delete a 0 noreply\r\n", b""),
    "delete a key called noreply": (b"delete noreply\r\n", b"NOT_FOUND\r\n"),
    "delete 5": (b"delete a 5\r\n", USAGE),
    "delete 5 noreply": (b"delete a 5 noreply\r\n", b""),
    "delete 0 0": (b"delete a 0 0\r\n", USAGE),
    "touch": (stored(b"x") + b"touch a 0\r\ntouch b 0\r\n", STORED + b"TOUCHED\r\nNOT_FOUND\r\n"),
    "touch noreply": (b"touch a 0 noreply\r\n", b""),
    "touch bad exptime": (b"touch a x\r\ntouch a noreply\r\n", EXPTIME),
    "touch long key": (b"touch %s 0\r\n" % LONG, FORMAT),
    "flush_all": (stored(b"x") + b"flush_all\r\nget a\r\n", STORED + b"OK\r\nEND\r\n"),
    "flush_all 0": (stored(b"x") + b"flush_all 0\r\nget a\r\n", STORED + b"OK\r\nEND\r\n"),
    "flush_all later": (
        stored(b"x") + b"flush_all 60\r\nget a\r\n",
        STORED + b"OK\r\n" + value(b"x"),
    ),
    "flush_all 1": (stored(b"x") + b"flush_all 1\r\nget a\r\n", STORED + b"OK\r\nEND\r\n"),
    "flush_all at the first second": (
        stored(b"x") + b"flush_all 2592001\r\nget a\r\n",
        STORED + b"OK\r\n" + value(b"x"),
    ),
    "flush_all noreply": (
        stored(b"x") + b"flush_all noreply\r\nflush_all 0 noreply\r\nget a\r\n",
        STORED + b"END\r\n",
    ),
    "flush_all bad delay": (
        b"flush_all x\r\nflush_all x noreply\r\nflush_all 0 0 0\r\n",
        EXPTIME + ERROR,
    ),
    "verbosity": (
        b"verbosity 1\r\nverbosity\r\nverbosity x\r\nverbosity 0 noreply\r\n",
        b"OK\r\n" + ERROR + FORMAT,
    ),
    "stats reset": (b"stats reset\r\nstats nonsense\r\n", b"RESET\r\n" + ERROR),
    # numbers
    "incr": (stored(b"9") + b"incr a 1\r\nget a\r\n", STORED + b"10\r\n" + value(b"10")),
    "incr wraps": (
        stored(b"18446744073709551615") + b"incr a 2\r\nget a\r\n",
        STORED + b"1\r\n" + value(b"1".ljust(20)),
    ),
    "decr keeps the length": (
        b"set a 3 0 3\r\n100\r\ndecr a 1\r\nget a\r\nincr a 1\r\nget a\r\n",
        STORED + b"99\r\n" + value(b"99 ", 3) + b"100\r\n" + value(b"100", 3),
    ),
    "decr stops at zero": (
        stored(b"5") + b"decr a 6\r\nget a\r\n",
        STORED + b"0\r\n" + value(b"0"),
    ),
    "incr missing": (b"incr a 1\r\ndecr a 1\r\n", b"NOT_FOUND\r\n" * 2),
    "incr noreply": (stored(b"5") + b"incr a 1 noreply\r\nget a\r\n", STORED + value(b"6")),
    "incr by no number": (b"incr a x\r\nincr a -1\r\nincr a noreply\r\n", DELTA * 2),
    "incr by too much": (b"incr a 18446744073709551616\r\n", DELTA),
    "incr of no number": (stored(b"x") + b"incr a 1\r\n", STORED + NUMERIC),
    "incr of nothing": (stored(b"") + b"incr a 1\r\n", STORED + NUMERIC),
    "incr of a negative": (stored(b"-1") + b"incr a 1\r\n", STORED + NUMERIC),
    "incr of a number and more": (
        stored(b"5 x") + b"incr a 1\r\nget a\r\n" + stored(b"5x") + b"incr a 1\r\n",
        STORED + b"6\r\n" + value(b"6  ") + STORED + NUMERIC,
    ),
    "incr of thousands of digits": (stored(b"9" * 10_000) + b"incr a 1\r\n", STORED + NUMERIC),
    # bad requests
    "empty lines": (b"\r\n\n   \r\n", ERROR * 3),
    "unknown": (b"nonsense\r\nx\r\nGET a\r\n\xff\xfe\r\n\x80\r\n", ERROR * 5),
    "missing words": (
        b"get\r\ngets\r\nset\r\nset a 0 0\r\nincr a\r\ntouch a\r\ndelete\r\n",
        ERROR * 7,
    ),
    "too many words": (b"set a 0 0 1 2 3\r\nincr a 1 2 3\r\ndelete a 0 0 0\r\n", ERROR * 3),
    "flags not a number": (b"set a x 0 1\r\n", FORMAT),
    "flags negative": (b"set a -1 0 1\r\n", FORMAT),
    "flags too large": (b"set a 18446744073709551616 0 1\r\n", FORMAT),
    "flags wrap": (b"set a 4294967297 0 1\r\nx\r\nget a\r\n", STORED + value(b"x", 1)),
    "exptime not a number": (b"set a 0 x 1\r\n", FORMAT),
    "length not a number": (b"set a 0 0 x\r\nset a 0 0 1x\r\n", FORMAT * 2),
    "length not a number, noreply": (b"set a 0 0 x noreply\r\n", b""),
    "length negative": (b"set a 0 0 -1\r\n", FORMAT),
    "length beyond 31 bits": (b"set a 0 0 2147483647\r\nset a 0 0 2147483648\r\n", FORMAT * 2),
    "length wraps": (b"set a 0 0 4294967297\r\nx\r\n", STORED),
    "a data block nobody waits for": (b"set a 0 0 -1\r\nx\r\n", FORMAT + ERROR),
    "long key": (b"set %s 0 0 1\r\nx\r\n" % LONG, FORMAT + ERROR),
    "longest key": (b"set %s 0 0 1\r\nx\r\ndelete %s\r\n" % (KEY, KEY), STORED + b"DELETED\r\n"),
    "get long key": (
        stored(b"x") + b"get a\r\nget a %s\r\n" % LONG,
        STORED + value(b"x") + FORMAT,
    ),
    "long keys elsewhere": (b"incr %s 1\r\ndelete %s\r\n" % (LONG, LONG), FORMAT * 2),
    "control characters": (
        b"set a\tb\x01 0 0 1\r\nx\r\nget a\tb\x01\r\n",
        STORED + b"VALUE a\tb\x01 0 1\r\nx\r\nEND\r\n",
    ),
    "NUL ends the line": (
        stored(b"x") + b"get a\0b\r\nset a\0b 0 0 1\r\n",
        STORED + value(b"x") + ERROR,
    ),
    "bare line feeds": (b"set a 0 0 1\nx\r\nget a\n", STORED + value(b"x")),
    "spare spaces": (b"  set  a 0 0   1 \r\nx\r\nget a \r\n", STORED + value(b"x")),
    "bad data chunk": (
        stored(b"x") + b"set a 0 0 3\r\nabcde\r\nget a\r\n",
        STORED + CHUNK + ERROR + value(b"x"),
    ),
    "bad data chunk, noreply": (b"set a 0 0 3 noreply\r\nabcde\r\n", ERROR),
    "data block cut short": (b"set a 0 0 5\r\nabc\r\nxx", CHUNK),
    "largest": (stored(b"x" * LARGEST) + b"get a\r\n", STORED + value(b"x" * LARGEST)),
    "too large": (
        stored(b"x") + stored(b"x" * (LARGEST + 1)) + b"get a\r\n",
        STORED + TOO_LARGE + b"END\r\n",
    ),
    "too large by its flags": (b"set a 1 0 %d\r\n%s\r\n" % (LARGEST, b"x" * LARGEST), TOO_LARGE),
    "too large to add": (
        stored(b"x") + stored(b"x" * 2_000_000, b"add") + b"get a\r\n",
        STORED + TOO_LARGE + value(b"x"),
    ),
    "too large, noreply": (b"set a 0 0 2000000 noreply\r\n" + b"x" * 2_000_002, b""),
    "expired at once": (
        b"set a 0 -1 1\r\nx\r\nget a\r\nset a 0 2592001 1\r\nx\r\nget a\r\nadd a 0 0 1\r\nx\r\n",
        STORED + b"END\r\n" + STORED + b"END\r\n" + STORED,
    ),
    "touched into the past": (
        stored(b"x") + b"touch a -1\r\nget a\r\n",
        STORED + b"TOUCHED\r\nEND\r\n",
    ),
}


@pytest.fixture(params=["devserver", "real_memcached"])
def server(request: pytest.FixtureRequest) -> Memcached:
    """Either server, with nothing in it."""
    server: Memcached = request.getfixturevalue(request.param)
    assert ask(server, b"flush_all\r\n") == b"OK\r\n"
    return server


def imitated(server: Memcached) -> None:
    """Skip the test if *server* is not the version of memcached that the devserver imitates."""
    wanted = VERSION.partition("-")[0]
    if server.kind == "memcached" and server.version != wanted:
        pytest.skip(f"memcached {server.version} words some errors differently from {wanted}")


# -- The protocol


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_server_gives_the_answers_of_memcached(server: Memcached, name: str) -> None:
    imitated(server)
    request, answer = CONVERSATIONS[name]

    assert ask(server, request) == answer


def test_server_answers_a_pipeline_in_order(devserver: Memcached) -> None:
    # Not with the real memcached: it loses unsent answers when a get has a key that is too long.
    request = answer = b""
    for one_request, one_answer in CONVERSATIONS.values():
        request += b"flush_all\r\n" + one_request
        answer += b"OK\r\n" + one_answer

    assert ask(devserver, request) == answer


def test_server_answers_requests_that_arrive_byte_by_byte(server: Memcached) -> None:
    imitated(server)
    for request, answer in CONVERSATIONS.values():
        if len(request) > 300:
            continue
        ask(server, b"flush_all\r\n")
        with connected(server.address) as connection:
            for byte in request + b"quit\r\n":
                connection.send(bytes([byte]))
            got = received(connection)
        assert re.sub(rb"(VALUE \S+ \d+ \d+) \d+", rb"\1 CAS", got) == answer


def test_cas_stores_once_for_each_unique(server: Memcached) -> None:
    with connected(server.address) as connection:
        connection.sendall(b"set a 0 0 1\r\nx\r\ngets a\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(100)
        unique = answer.split()[5]
        connection.sendall(b"cas a 0 0 1 %s\r\ny\r\n" % unique * 2 + b"get a\r\nquit\r\n")

        assert received(connection) == STORED + b"EXISTS\r\n" + value(b"y")


STORES = b"set add replace append prepend".split()
NAMES = [
    *STORES,
    *b"get gets gat gats cas incr decr touch delete verbosity x SET gett".split(),
    b"",
]
WORDS = b"a b 7 0 60 -1 -0 +7 x 7x noreply 4294967303 2147483648 -9223372036854775808".split()
WORDS += [b"18446744073709551615", b"18446744073709551616", b"7\tx", b"a\0b", b"\r", b"\xff"]
DELTAS = [*b"0 1 1 7 9 18446744073709551615".split(), *WORDS]
VALUES = [*b"7 10 10 +3 007 -1 5x abc 18446744073709551615 4".split(), b"", b" 9", b"9 ", b"5 x"]
VALUES += [b"9\0", b"\r\nx", b"get a\r\n"]  # memcached reads past the end of a value of spaces
keys = st.sampled_from([b"a", b"a", b"b"])
noreply = st.sampled_from([b"", b"", b"", b" noreply"])
values = st.sampled_from(VALUES)
excesses = st.sampled_from([0] * 12 + [-1, 1, 2])  # added to the length of the value


def store(name: bytes, key: bytes, value: bytes, excess: int, more: bytes) -> bytes:
    return b"%s %s 7 0 %d%s\r\n%s\r\n" % (name, key, len(value) + excess, more, value)


def words(*words: bytes) -> bytes:
    return b" ".join(words) + b"\r\n"


stores = st.builds(store, st.sampled_from(STORES), keys, values, excesses, noreply)
unique = st.sampled_from([b" {%d}" % number for number in range(1, 6)])  # one of the first five
requests = st.one_of(
    stores,
    stores,
    st.builds(store, st.just(b"cas"), keys, values, excesses, unique),
    st.builds(words, st.sampled_from([b"incr", b"decr"]), keys, st.sampled_from(DELTAS)),
    st.builds(words, st.sampled_from([b"delete", b"gets", b"gat 0", b"touch"]), keys),
    st.sampled_from(
        [words(b"gets", b"a", b"b"), words(b"flush_all"), b"flush_all -1 noreply\r\n"]
    ),
    st.lists(st.sampled_from(WORDS), max_size=6).flatmap(
        lambda found: st.builds(words, st.sampled_from(NAMES), *map(st.just, found))
    ),
)


@given(st.lists(requests, min_size=3, max_size=15))
@settings(
    max_examples=250,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_server_answers_random_requests_like_memcached(
    devserver: Memcached, real_memcached: Memcached, requests: list[bytes]
) -> None:
    imitated(real_memcached)

    def converse(server: Memcached) -> bytes:
        """The answers. Their cas uniques count from the start of this conversation."""
        start = 0

        def counted(match: re.Match[bytes]) -> bytes:
            return b"%s +%d" % (match[1], int(match[2]) - start)

        with connected(server.address) as connection:
            connection.sendall(b"flush_all\r\nset start 0 0 0\r\n\r\ngets start\r\n")
            answer = b""
            while not answer.endswith(b"END\r\n"):
                answer += connection.recv(100)
            start = int(answer.split()[6])
            request = re.sub(
                rb"\{(\d)\}", lambda m: b"%d" % (start + int(m[1])), b"".join(requests)
            )
            # The empty lines complete data blocks whose length is too large.
            connection.sendall(request + b"gets a b\r\n" + b"\r\n" * 50 + b"quit\r\n")
            return re.sub(rb"(VALUE \S+ \d+ \d+) (\d+)", counted, received(connection))

    assert converse(devserver) == converse(real_memcached)


# -- The connections


@pytest.mark.parametrize(
    "request_",
    [b"quit\r\n", b"quit now\r\n", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n"],
)
def test_server_closes_the_connection(server: Memcached, request_: bytes) -> None:
    with connected(server.address) as connection:
        connection.sendall(request_)

        assert received(connection) == b""


def test_server_closes_the_connection_when_a_line_does_not_end(server: Memcached) -> None:
    with connected(server.address) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"x" * 20_000)

        assert received(connection) == b""


def test_server_refuses_the_binary_protocol(devserver: Memcached) -> None:
    with connected(devserver.address) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"\x80\x0b" + bytes(22))  # a version request

        assert received(connection) == b""


def test_server_survives_garbage_and_resets_and_prints_nothing() -> None:
    with command_line("--port=0") as (process, address):
        for garbage in (b"", b"\xff\x00\n" * 999, b"set a 0 0 9999\r\nx", b"get a\r\n" * 9999):
            with connected(address) as connection:
                # close() resets the connection.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(garbage)
        with connected(address) as connection:
            connection.sendall(b"get a\r\nquit\r\n")
            assert received(connection) == b"END\r\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == (b"", b"")


def test_slow_client_does_not_delay_another(server: Memcached) -> None:
    with connected(server.address) as slow:
        slow.sendall(b"set a 0 0 10\r\nhalf")
        assert ask(server, b"get b\r\n") == b"END\r\n"
        slow.sendall(b" done.\r\nquit\r\n")
        assert received(slow) == STORED


def test_clients_that_wait_for_no_answer_do_not_delay_another(devserver: Memcached) -> None:
    with contextlib.ExitStack() as connections:
        hasty = [connections.enter_context(connected(devserver.address)) for _ in range(20)]
        other = connections.enter_context(connected(devserver.address))
        for connection in hasty:
            connection.sendall(b"delete a noreply\r\n" * 5000 + b"version\r\n")
        other.sendall(b"version\r\n")

        assert other.recv(100).startswith(b"VERSION ")
        assert select.select(hasty, [], [], 0)[0] == []


# -- The cache


def test_items_expire(server: Memcached) -> None:
    soon = int(time.time()) + 1
    ask(server, b"set relative 0 1 1\r\nx\r\nset absolute 0 %d 1\r\nx\r\n" % soon)
    ask(server, b"set touched 0 0 1\r\nx\r\ntouch touched 1\r\nset lasting 0 60 1\r\nx\r\n")

    eventually(lambda: ask(server, b"get relative absolute touched\r\n") == b"END\r\n")
    assert ask(server, b"touch lasting 0\r\n") == b"TOUCHED\r\n"


def test_flush_all_waits_for_its_delay(server: Memcached) -> None:
    ask(server, stored(b"x") + b"flush_all 2\r\n")

    eventually(lambda: ask(server, b"get a\r\n") == b"END\r\n")
    # The real memcached also flushes items that are stored in the same second.
    eventually(lambda: ask(server, stored(b"y") + b"get a\r\n") == STORED + value(b"y"))


def test_least_recently_used_items_are_evicted() -> None:
    with command_line("--port=0", "--memory=1") as (_, address):
        client = pylibmc.Client([address])
        client.set("first", "used all the time")
        for number in range(2000):
            client.set(str(number), b"x" * 1000)
            assert client.get("first") == "used all the time"
        ((_, stats),) = client.get_stats()

        assert client.get("0") is None
        assert client.get("1999") == b"x" * 1000
        assert int(stats["evictions"]) + int(stats["curr_items"]) == 2001
        assert int(stats["bytes"]) <= int(stats["limit_maxbytes"]) == 1024 * 1024
        client.disconnect_all()


# -- With pylibmc


def test_every_command_of_pylibmc_works(server: Memcached) -> None:
    client = pylibmc.Client([server.address], behaviors={"cas": True})
    assert client.flush_all()
    assert client.set("a", "x")
    assert client.get("a") == "x"
    assert not client.add("a", "y")
    assert client.replace("a", "y")
    assert client.append("a", ">")
    assert client.prepend("a", "<")
    assert client.get("a") == "<y>"
    found, unique = client.gets("a")
    assert found == "<y>"
    assert client.cas("a", {"any": ["object"]}, unique)
    assert not client.cas("a", "late", unique)
    assert client.get("a") == {"any": ["object"]}
    assert client.touch("a", 60)
    assert client.delete("a")
    assert not client.delete("a")
    assert client.set("n", 41)
    assert client.incr("n") == 42
    assert client.decr("n", 2) == 40
    assert client.incr_multi(["n"], delta=2) is None
    assert client.set_multi({"b": 1, "c": b"2"}) == []
    assert client.add_multi({"c": 3, "d": 4.5}) == ["c"]
    assert client.get_multi(["b", "c", "d", "e", "n"]) == {"b": 1, "c": b"2", "d": 4.5, "n": 42}
    assert client.delete_multi(["b", "c"])
    assert client.set("long", "x" * 1_000_000, time=60)
    assert client.get("long") == "x" * 1_000_000
    with pytest.raises(pylibmc.TooBig):
        client.set("long", "x" * 2_000_000)
    assert client.get("d") == 4.5
    assert client.clone().get("d") == 4.5
    client.disconnect_all()
    assert client.get("d") == 4.5
    assert client.flush_all()
    assert client.get("d") is None


def test_stats_count_connections(server: Memcached) -> None:
    def stats() -> Any:
        ((_, found),) = client.get_stats()
        return found

    def connections() -> int:
        return int(stats()["curr_connections"])

    client = pylibmc.Client([server.address])
    gc.collect()  # frees the clients of other tests
    eventually(lambda: connections() == 1)
    with connected(server.address):
        eventually(lambda: connections() == 2)
    eventually(lambda: connections() == 1)
    assert int(stats()["pid"]) == server.process.pid
    names = "uptime time version total_connections cmd_get cmd_set get_hits get_misses curr_items"
    names += " total_items bytes limit_maxbytes evictions threads"
    assert set(names.split()) <= stats().keys()
    client.disconnect_all()


@pytest.mark.parametrize("topic", [b"settings", b"items", b"slabs"])
def test_stats_have_topics(server: Memcached, topic: bytes) -> None:
    assert re.fullmatch(rb"(STAT \S+ .*\r\n)*END\r\n", ask(server, b"stats %s\r\n" % topic))


def test_server_serves_many_clients_at_once(server: Memcached) -> None:
    def work(number: int) -> None:
        client = pylibmc.Client([server.address])
        for turn in range(50):
            assert client.set(f"{number}", (number, turn))
            assert client.get(f"{number}") == (number, turn)
        client.disconnect_all()

    with ThreadPoolExecutor(32) as executor:
        list(executor.map(work, range(64)))
