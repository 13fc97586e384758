"""The threads of the package end before a sub-interpreter does, because they would crash it."""

from __future__ import annotations

import sys

import hostile
import pytest
from harness import run_python

from mcpool_wsgi import Client, interpreters

pytestmark = pytest.mark.servers

#: Runs code in a sub-interpreter that may have threads, as those of mod_wsgi, and ends it.
PROGRAM = """
import sys

try:
    import _interpreters as interpreters
    number = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    number = interpreters.create(isolated=False)
path, address, end, *sys.path[1:] = sys.argv[1:]
names = f"import sys; address, end, sys.path[:] = {address!r}, {end!r}, {sys.path!r}"
interpreters.run_string(number, names)
error = interpreters.run_string(number, open(path).read())
assert error is None, error
interpreters.destroy(number)
print("ended")
"""

#: What runs in it: everything that has a thread.
CODE = """
import _thread, atexit, types

listeners = []
if end == "mod_wsgi":
    sys.modules["mod_wsgi"] = types.SimpleNamespace(subscribe_shutdown=listeners.append)

from harness import eventually

from mcpool_wsgi import ClientPool, MemcachedPoolMiddleware
from mcpool_wsgi.discovery import Discovery

pool = ClientPool.from_servers([address], n_slots=2)

def app(environ, start_response):
    environ["mc.client"].set("greeting", "hello")
    return []

wrapped = MemcachedPoolMiddleware(app, pool, slow_after=60)
with Discovery(pool, address):
    wrapped({}, None).close()
    eventually(lambda: _thread._count() == 3)
    if end == "mod_wsgi":
        assert listeners
        for listener in listeners:
            listener("process_stopping", shutdown_reason="")
        eventually(lambda: _thread._count() == 0)
    atexit._run_exitfuncs()
    # Commands go on, without the limit for the whole command.
    with pool.reserve() as mc:
        assert mc.get("greeting") == "hello"
eventually(lambda: _thread._count() == 0)
"""


@pytest.mark.parametrize("end", ["atexit", "mod_wsgi"])
def test_threads_end_before_their_sub_interpreter(mc: Client, tmp_path: object, end: str) -> None:
    file = f"{tmp_path}/code.py"
    with open(file, "w", encoding="utf-8") as code:
        code.write(CODE)
    (address,) = mc.addresses
    process = run_python(PROGRAM, file, address, end, *sys.path)
    assert (process.returncode, process.stdout) == (0, "ended\n"), process.stderr


LAST = """
import atexit, sys

def command():
    try:
        print(mc.get("key"))
    except pylibmc.Error as error:
        print(error)

atexit.register(command)  # first, so it is called last

import pylibmc
from mcpool_wsgi import Client

waits = {"_poll_timeout": 2000, "receive_timeout": 2_000_000}
mc = Client([sys.argv[1]], waits, command_timeout=1)
command()
"""


def test_nothing_ends_early_in_the_main_interpreter() -> None:
    assert interpreters.is_main()

    def script(conversation: hostile.Conversation) -> None:
        conversation.request()
        conversation.send(hostile.value("key") + b"END\r\n")
        conversation.wait()

    with hostile.fake(script) as server:
        process = run_python(LAST, server.address)
    first, last = process.stdout.splitlines()
    assert first == "value"
    assert "command_timeout" in last


def test_program_that_hides_the_functions_of_python_has_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_functions(name: str) -> int:
        raise AttributeError(f"undefined symbol: {name}")  # as a library of ctypes does

    monkeypatch.setattr(interpreters, "_address_from", without_functions)
    assert interpreters.is_main()
