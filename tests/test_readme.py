"""README is true: its Python blocks run, and its names and signatures are those of the code."""

from __future__ import annotations

import inspect
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paste.deploy import loadfilter
from prometheus_client import CollectorRegistry
from servers.catalogue import DIFFERENCES, PREFORK, SERVERS
from webtest import TestApp

import mcpool_wsgi
from mcpool_wsgi import Client, ClientPool, ClientReleased, PickleForbidden

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
POOL = {"db_client_connection_pool_name": "default"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_one_after_the_other(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCACHED_SERVERS", address)
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
    Client([address]).set("greeting", "hello, reader")
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block.replace("127.0.0.1:11211", address), names)
    assert TestApp(names["app"]).get("/").text in ("hello", "hello, reader")
    assert Client([address]).get("greeting") == "hello"
    assert names["client"].get("user") == {"name": "Ada"}
    Client([address]).set("pickled", ["Ada"])
    with pytest.raises(PickleForbidden):
        names["client"].get("pickled")
    with pytest.raises(ClientReleased):
        names["mc"].get("greeting")
    for name in re.findall(r"rate\((\w+)\[", README):
        assert names["REGISTRY"].get_sample_value(name, POOL) is not None


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


def test_there_are_two_commands_and_the_shell_reads_them() -> None:
    commands = blocks("bash")
    assert ["examples/app.py" in command for command in commands] == [True, False]
    assert ["pytest" in command for command in commands] == [False, True]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", [name for name in dir(mcpool_wsgi) if name[0].isupper()])
def test_every_public_name_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `?{name}\b|`{name}`", README, re.MULTILINE)


SIGNATURES = re.findall(r"^\| `((?:pool\.)?\w+)\((.*?)\)` \|", README, re.MULTILINE)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found if each.name != "self"]


@pytest.mark.parametrize(("name", "arguments"), SIGNATURES, ids=[name for name, _ in SIGNATURES])
def test_signature_in_the_table_is_that_of_the_code(name: str, arguments: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def shown({arguments}): pass", names)
    where: Any = ClientPool if name.startswith("pool.") else mcpool_wsgi
    shown, real = parameters(names["shown"]), parameters(getattr(where, name.rpartition(".")[2]))
    for number, (parameter, kind, default) in enumerate(shown):
        if default is ...:
            shown[number] = (parameter, kind, real[number][2])
    assert shown == real


def test_the_table_has_signatures() -> None:
    wanted = {"MemcachedPoolMiddleware", "ClientPool", "Client", "pool.reserve"}
    assert wanted <= {name for name, _ in SIGNATURES}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https:)(.+?)\)", README))))
def test_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


#: What runs at the same time on a server, and which pool suits it.
SUITS = {
    "threads": ("threads", "`ClientPool`, a slot per thread"),
    "greenlets": ("greenlets", "`ClientPool`; other greenlets run during a wait"),
    "loop": (
        "responses, in one thread",
        "`ClientPool`, a slot per connection; no waits, `503` at once",
    ),
    "nothing": ("nothing", "`ClientPool`, one slot"),
}


def server_table() -> str:
    preforked = {server for server, _, _ in PREFORK.values()}
    rows = ["| server | runs at the same time | pool | differences |", "|---|---|---|---|"]
    for server in SERVERS:
        at_the_same_time, pool = SUITS[server.concurrency]
        effects = sorted(set(DIFFERENCES.get(server.name, {}).values()))
        name = f"{server.name} ¹" if server.name in preforked else server.name
        rows.append(f"| {name} | {at_the_same_time} | {pool} | {' '.join(effects) or 'none'} |")
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
