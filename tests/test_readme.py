"""README says what is so: its Python blocks run, its names exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paste.deploy import loadfilter
from servers.catalogue import DIFFERENCES, PREFORK, SERVERS
from webtest import TestApp

import mcpool_wsgi
from mcpool_wsgi import Client

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


POOL = {"db_client_connection_pool_name": "default"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_one_after_the_other(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCACHED_SERVERS", address)
    Client([address]).set("greeting", "hello, reader")
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block.replace("127.0.0.1:11211", address), names)
    assert TestApp(names["app"]).get("/").text in ("hello", "hello, reader")
    assert Client([address]).get("greeting") == "hello"
    for name in re.findall(r"rate\((\w+)\[", README):
        assert names["REGISTRY"].get_sample_value(name, POOL) is not None


def test_there_are_two_commands_and_the_shell_reads_them() -> None:
    commands = blocks("bash")
    assert ["examples/app.py" in command for command in commands] == [True, False]
    assert ["pytest" in command for command in commands] == [False, True]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", [name for name in dir(mcpool_wsgi) if name[0].isupper()])
def test_every_public_name_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `?{name}\b|`{name}`", README, re.MULTILINE)


#: What suits a server, by what runs its requests side by side.
SUITS = {
    "threads": ("threads", "`ClientPool`, a slot per thread"),
    "greenlets": ("greenlets", "`ClientPool`; a wait lets other greenlets go on"),
    "loop": (
        "responses only, in one thread",
        "`ClientPool`, a slot per connection: a wait is a 503 at once",
    ),
    "nothing": ("nothing", "`ClientPool`, one slot"),
}


def server_table() -> str:
    preforked = {server for server, _, _ in PREFORK.values()}
    rows = ["| server | side by side | pool | differs from the bare app |", "|---|---|---|---|"]
    for server in SERVERS:
        side_by_side, pool = SUITS[server.concurrency]
        effects = sorted(set(DIFFERENCES.get(server.name, {}).values()))
        name = f"{server.name} ¹" if server.name in preforked else server.name
        rows.append(f"| {name} | {side_by_side} | {pool} | {' '.join(effects) or 'nowhere'} |")
    return "\n".join(rows)


def test_server_table_is_what_the_tests_run() -> None:
    assert server_table() in README


def test_ini_block_is_what_pastedeploy_loads(tmp_path: Path) -> None:
    (block,) = blocks("ini")
    config = tmp_path / "app.ini"
    config.write_text(block)
    wrapped = loadfilter(f"config:{config}", "memcached")(lambda environ, start_response: [])
    assert isinstance(wrapped, mcpool_wsgi.MemcachedPoolMiddleware)


def test_diff_block_imports_what_it_says() -> None:
    (block,) = blocks("diff")
    for line in block.splitlines():
        exec(line[1:], {})


def test_console_block_shows_what_the_example_answers(mc: Client) -> None:
    (block,) = blocks("console")
    command, answer = block.splitlines()
    from app import make_app

    path = command.rpartition(":5050")[2]
    assert TestApp(make_app(mc.addresses)).get(path).text == answer
