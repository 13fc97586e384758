"""A server that uses sendfile() for a bare app uses it with the middleware, too."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from harness import Connections

from .catalogue import DIFFERENCES, SERVERS, Server
from .conftest import demand
from .launch import running
from .wire import get

pytestmark = pytest.mark.servers


def strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode == 0


@pytest.mark.skipif("not strace_works()", reason="needs strace, and the right to trace")
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_file_is_sent_with_sendfile_as_by_the_bare_app(server: Server, cache: Connections) -> None:
    demand(server)
    command = "strace -f -qq -e trace=sendfile -o {directory}/calls " + server.command
    with running(server, cache.address, command=command) as found:
        calls = found.log.with_name("calls")
        used = []
        for road in ("bare", "wrapped"):
            before = calls.read_text()
            response = get(found.port, f"/{road}/file_with_length")
            get(found.port, "/-/stats")  # strace has written the call by now
            assert response.body == found.file.read_bytes()
            used.append("sendfile(" in calls.read_text()[len(before) :])
    bare, wrapped = used
    assert bare == server.sendfile
    assert wrapped == (bare and "sendfile" not in DIFFERENCES.get(server.name, {}))
