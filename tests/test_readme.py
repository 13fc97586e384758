"""README is true: its blocks run, and its links lead somewhere."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from mcpool_wsgi import Client, ClientReleased

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_app_answers_with_what_memcached_has(address: str) -> None:
    Client([address]).set("greeting", "hello, reader")
    names: dict[str, Any] = {}
    first, *others = [block.replace("127.0.0.1:11211", address) for block in blocks("python")]
    exec(first, names)
    assert TestApp(names["app"]).get("/").text == "hello, reader"
    for block in others:
        exec(block, names)
    assert names["cache"].get("greeting") == "hello"
    with pytest.raises(ClientReleased):
        names["mc"].get("greeting")


def test_python_blocks_survive_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"127.0.0.1:{listener.getsockname()[1]}"
    (app,) = (block for block in blocks("python") if "MemcachedPoolMiddleware(" in block)
    (reading,) = (block for block in blocks("python") if "except pylibmc.Error" in block)
    names: dict[str, Any] = {}
    exec(app.replace("127.0.0.1:11211", nowhere) + reading, names)
    assert TestApp(names["app"]).get("/").text == "nobody there"
    with pytest.raises(names["pylibmc"].Error):
        Client([nowhere]).get("greeting")
    assert names["greeting"](Client([nowhere])) == "nobody there"


def test_diff_block_imports_what_it_says() -> None:
    (block,) = blocks("diff")
    for line in block.splitlines():
        exec(line[1:], {})


def test_there_are_two_commands_and_the_shell_reads_them() -> None:
    commands = blocks("bash")
    assert ["examples/app.py" in command for command in commands] == [True, False]
    assert ["pytest" in command for command in commands] == [False, True]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https:)(.+?)\)", README))))
def test_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


def test_console_block_shows_what_the_example_answers(mc: Client) -> None:
    (block,) = blocks("console")
    command, answer = block.splitlines()
    from app import make_app

    path = command.rpartition(":5050")[2]
    assert TestApp(make_app(mc.addresses)).get(path).text == answer
