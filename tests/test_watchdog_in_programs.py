"""The time limit in whole programs: where threads are patched, and where the interpreter ends."""

from __future__ import annotations

import importlib.util
import textwrap

import hostile
import pytest
from harness import limited_time, missing, run_python

pytestmark = pytest.mark.servers

PRELUDE = """
import contextlib, math, socket, sys, threading, time

def limited(limit=0.3, command="get"):
    client._expired = False
    client._deadline = deadline = time.monotonic() + limit
    if deadline < watchdog.wakes_at:
        watchdog.wake()
    try:
        with contextlib.suppress(pylibmc.Error):
            getattr(client, command)("key")
    finally:
        client._deadline = math.inf

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(20)

import pylibmc
from mcpool_wsgi.client.watchdog import watchdog

class Client(pylibmc.Client):
    _deadline, _expired = math.inf, False

client = Client(
    ["127.0.0.1:%d" % listener.getsockname()[1]],
    behaviors={"_poll_timeout": 20_000, "connect_timeout": 20_000},
)
watchdog.watch(client)
"""


def program(*parts: str) -> None:
    """A program that ends well and prints nothing."""
    source = "\n".join(textwrap.dedent(part) for part in parts)
    process = run_python(source, options=["-X", "dev", "-W", "ignore"])
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
EXPIRES = """
start = time.monotonic()
limited()
assert client._expired
assert time.monotonic() - start < 5
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("order", ["patched first", "imported first"])
def test_commands_expire_where_threads_are_patched(library: str, order: str) -> None:
    if importlib.util.find_spec(library) is None:
        if library == "gevent":
            missing(library)
        pytest.skip("eventlet is not installed")
    parts = [PATCHES[library], PRELUDE]
    if order == "imported first":
        parts.reverse()
    program(*parts, EXPIRES)


TOO_MANY_FILES = """
import os, resource, sys

import pylibmc
from mcpool_wsgi import Client

def command():
    try:
        Client([sys.argv[1]], {"_poll_timeout": 2000}, command_timeout=0.2).get("key")
    except (OSError, pylibmc.Error) as error:
        print(error)

limits = resource.getrlimit(resource.RLIMIT_NOFILE)
os.close(lowest := os.open("/dev/null", os.O_RDONLY))
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
command()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
command()
"""


def test_commands_expire_once_there_are_no_longer_too_many_open_files() -> None:
    """The sockets of clients cannot be found before."""
    with hostile.fake(hostile.silent) as server:
        done = run_python(TOO_MANY_FILES, server.address)
    first, second = done.stdout.splitlines()
    assert "command_timeout" not in first
    assert "command_timeout" in second


def test_program_ends_well_while_a_command_runs() -> None:
    with limited_time():
        program(
            PRELUDE,
            """
            threading.Thread(target=limited, args=(60,), daemon=True).start()
            time.sleep(0.2)
            """,
        )


def test_program_ends_well_while_a_command_expires() -> None:
    with limited_time():
        program(
            PRELUDE,
            """
            def work():
                while True:
                    limited(0.001)
                    client.disconnect_all()
            threading.Thread(target=work, daemon=True).start()
            time.sleep(0.3)
            """,
        )


def test_program_ends_well_right_after_its_first_command() -> None:
    for _ in range(5):
        with limited_time():
            program(PRELUDE, "watchdog.wake()")


WAITS_FOR_THE_MAIN_THREAD = """
def work():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    EXPIRES
    ended.set()
ended = threading.Event()
"""


@pytest.mark.parametrize("daemon", [False, True])
def test_first_command_after_the_end_of_the_main_thread_expires(daemon: bool) -> None:
    """The interpreter waits for other threads."""
    with limited_time():
        program(
            PRELUDE,
            WAITS_FOR_THE_MAIN_THREAD.replace("EXPIRES", textwrap.indent(EXPIRES, "    ").strip()),
            f"threading.Thread(target=work, daemon={daemon}).start()",
            "threading.Thread(target=ended.wait).start()",
        )


def test_program_ends_well_if_its_first_command_comes_at_exit() -> None:
    with limited_time():
        program(
            PRELUDE,
            """
            import atexit
            atexit.register(client.disconnect_all)
            atexit.register(watchdog.wake)
            """,
        )


def test_program_ends_well_if_a_finaliser_runs_a_command() -> None:
    with limited_time():
        program(
            PRELUDE,
            EXPIRES,
            """
            class Finalised:
                def __del__(self, wake=watchdog.wake):
                    wake()
            sys.finalised = Finalised()
            """,
        )
