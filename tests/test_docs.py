"""The documentation is true: its code blocks run, and its tables are those of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pylibmc
import pytest
from harness import missing
from prometheus_client import CollectorRegistry
from reader import Block, Reader, blocks_of_docstring, blocks_of_page
from servers.catalogue import DIFFERENCES, PREFORK, SERVERS
from werkzeug.wrappers import Response

import mcpool_wsgi
from mcpool_wsgi import Client, ClientPool, ClientReleased, LentClient, PooledClient, forks
from mcpool_wsgi.client import failures
from mcpool_wsgi.devserver import memcached

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "mcpool_wsgi"
PUBLIC = [
    name for name, value in vars(mcpool_wsgi).items() if isinstance(value, (type, FunctionType))
]
#: Pages about a system that a test has to set up first. That test reads the page.
READ_ELSEWHERE = {
    "how-to/sasl.md": "test_sasl.py",
    "how-to/scale.md": "test_proxy.py",
    "how-to/tls.md": "secured.py",
}
#: Their modules are documented one by one, and other rooms as a whole.
ROOMS = {".", "caches", "client", "middleware", "pool"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def pages() -> Iterator[Any]:
    for path in sorted(DOCS.rglob("*.md")):
        blocks = list(blocks_of_page(path))
        name = str(path.relative_to(DOCS))
        if blocks and "_build" not in path.parts and name not in READ_ELSEWHERE:
            has_commands = any(block.language == "console" for block in blocks)
            yield pytest.param(path, blocks, id=name, marks=[pytest.mark.servers] * has_commands)


@pytest.mark.parametrize(("path", "blocks"), list(pages()))
def test_code_blocks_of_a_page_run_one_after_the_other(
    path: Path, blocks: list[Block], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCACHED_SERVERS", address)
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
    need_what_is_imported(blocks)
    with ExitStack() as stack:
        reader = Reader(str(path), tmp_path, address, stack)
        reader.names["app"] = Response("hello")  # an app that the page does not show
        reader.read(blocks)


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_page_with_code_is_read_by_a_test_of_its_own(name: str) -> None:
    if any(block.is_run for block in blocks_of_page(DOCS / name)):
        test = ROOT / "tests" / READ_ELSEWHERE[name]
        assert Path(name).name in test.read_text(encoding="utf-8")


def need_what_is_imported(blocks: list[Block]) -> None:
    written = {Path(block.file).stem for block in blocks if block.file}
    for block in blocks:
        for module in re.findall(r"^(?:from|import) (\w+)", block.text, re.MULTILINE):
            if module not in written and find_spec(module) is None:
                missing(module)


def docstrings() -> Iterator[Any]:
    for path in [*sorted(PACKAGE.rglob("*.py")), ROOT / "pytest_mcpool_wsgi.py"]:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        blocks = list(blocks_of_docstring(text))
        if blocks:
            yield pytest.param(module_name(path), blocks, id=module_name(path))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), list(docstrings()))
def test_code_blocks_of_a_docstring_run_one_after_the_other(
    name: str, blocks: list[Block], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name, exc_type=ImportError)
    monkeypatch.setenv("MEMCACHED_SERVERS", address)
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())
    hello = Response("hello")
    monkeypatch.setitem(sys.modules, "hello", SimpleNamespace(app=hello))
    with ExitStack() as stack, ClientPool(Client([address]), 2) as pool:
        reader = Reader(name, tmp_path, address, stack)
        # What a short example leaves out.
        reader.names.update({each: getattr(mcpool_wsgi, each) for each in PUBLIC})
        reader.names.update(vars(sys.modules[name]))
        reader.names.update(app=hello, environ={"mc.client.release": list}, pool=pool)
        reader.names.update(client=Client([address]), forks=forks, limit=1.0)
        reader.names.update(thing=SimpleNamespace(process=forks.current))
        with suppress(ClientReleased):  # an example ends with it
            reader.read([block._replace(text=here(block.text, address)) for block in blocks])


def here(text: str, address: str) -> str:
    """*text* with *address* in place of the servers that an example names."""
    return re.sub(r'(?<=\[")127\.0\.0\.1(?=")|(?<=")10\.0\.1\.\d[^"/]*(?=")', address, text)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    directive = rf"auto\w+:: (mcpool_wsgi\.)?{name}$"
    assert any(
        re.search(directive, path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in (DOCS / "reference").iterdir()
    )
    assert f"~mcpool_wsgi.{name}`" in page("reference/index.md")


def documented_modules() -> Iterator[str]:
    for path in sorted(PACKAGE.glob("[a-z]*.py")) + sorted(PACKAGE.glob("*/**/*.py")):
        room = path.relative_to(PACKAGE).parent
        has_title = "\n===" in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
        if has_title and (str(room) in ROOMS or path.stem == "__init__"):
            yield module_name(path)


@pytest.mark.parametrize("name", list(documented_modules()))
def test_every_module_has_its_docstring_on_the_site(name: str) -> None:
    found = [path for path in DOCS.rglob("*.*") if path.suffix in (".md", ".rst")]
    directive = re.compile(rf"^\.\. (auto)?module:: {name}$", re.MULTILINE)
    assert any(directive.search(path.read_text(encoding="utf-8")) for path in found)


@pytest.mark.parametrize(
    ("heading", "is_soft"),
    [
        ("With `fail_soft=True`, these are misses:", True),
        ("These are raised also with `fail_soft=True`:", False),
    ],
)
def test_table_of_errors_is_what_fail_soft_does(heading: str, is_soft: bool) -> None:
    table = page("reference/errors.md").partition(heading)[2].split("\n\n")[1]
    names = [
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert len(names) > 3
    for name in names:
        if name != "TIMEOUT":
            kind = getattr(failures, name, None) or getattr(pylibmc, name)
            assert failures.is_unavailable(kind("text")) is is_soft


def logged() -> Iterator[tuple[str, str, str]]:
    """The logger, the level and the format of each line that the package logs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                name = re.findall(r"getLogger\((.+?)\)", text)[0].strip('"')
                if name == "__name__":
                    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                level = {"exception": "error"}.get(node.func.attr, node.func.attr)
                yield name, level.upper(), ast.literal_eval(node.args[0])


@pytest.mark.parametrize(("logger", "level", "line"), sorted(set(logged())))
def test_every_log_line_is_in_the_reference(logger: str, level: str, line: str) -> None:
    _, _, section = page("reference/log-lines.md").partition(f"\n## `{logger}`\n")
    section = section.partition("\n## ")[0]
    shown = re.sub(r"%\S*?[a-z]", "<[^>]+>", re.escape(line).replace("\\%", "%"))
    assert re.search(rf"^`{shown}`\n: \*\*{level}\*\*[.,] ", section, re.MULTILINE)


def test_there_are_no_log_lines_in_the_reference_that_nothing_logs() -> None:
    shown = re.findall(r"^`.+`\n: ", page("reference/log-lines.md"), re.MULTILINE)
    assert len(shown) == len(set(logged()))


#: What runs at the same time on a server, and which pool suits it.
SUITS = {
    "threads": ("threads", "`ClientPool`, a slot per thread"),
    "greenlets": ("greenlets", "`ClientPool`; other greenlets run during a wait"),
    "loop": (
        "responses, in one thread",
        "`ClientPool`, a slot per connection; no waits, `503` at once",
    ),
    "nothing": ("one request", "`ClientPool`, one slot"),
}


def server_table() -> str:
    preforked = {server for server, _, _ in PREFORK.values()}
    rows = ["| server | at the same time | pool | differences |", "|---|---|---|---|"]
    for server in SERVERS:
        at_the_same_time, pool = SUITS[server.concurrency]
        effects = sorted(set(DIFFERENCES.get(server.name, {}).values()))
        name = f"{server.name} ¹" if server.name in preforked else server.name
        rows.append(f"| {name} | {at_the_same_time} | {pool} | {' '.join(effects) or 'none'} |")
    return "\n".join(rows)


def test_server_table_is_what_the_tests_run() -> None:
    assert server_table() in page("reference/servers.md")


@pytest.mark.slow
def test_order_of_several_servers_does_not_matter(two_servers: list[str]) -> None:
    stored: dict[str | bytes, int] = {f"key{number}": number for number in range(100)}
    Client(two_servers).set_multi(stored)
    assert Client(two_servers[::-1]).get_multi(list(stored)) == stored


@pytest.mark.slow
def test_without_ketama_keys_are_where_pylibmc_looks_for_them(two_servers: list[str]) -> None:
    stored: dict[str | bytes, int] = {f"key{number}": number for number in range(100)}
    pylibmc.Client(two_servers).set_multi(stored)
    assert len(Client(two_servers).get_multi(list(stored))) < 100
    assert Client(two_servers, behaviors={"ketama": False}).get_multi(list(stored)) == stored


def test_values_of_pymemcache_can_be_read_and_the_other_way_round(address: str) -> None:
    if find_spec("pymemcache") is None:
        missing("pymemcache")
    from pymemcache import Client as PymemcacheClient
    from pymemcache.serde import pickle_serde

    ours = Client([address])
    with closing(PymemcacheClient(address, serde=pickle_serde)) as theirs:
        for value in ["text", b"bytes", 5, 10**20, 1.5, [1, "two"], {"a": None}, None]:
            theirs.set("theirs", value, noreply=False)
            ours.set("ours", value)
            assert ours.get("theirs") == theirs.get("ours") == value
        for value in [True, False]:
            ours.set("ours", value)
            assert type(theirs.get("ours")) is int


@pytest.mark.slow
def test_type_checkers_accept_the_import_of_errors(tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        missing("mypy")
    (line,) = re.findall(r"^from pylibmc import .+", page("faq.md"), re.MULTILINE)
    caller = tmp_path / "caller.py"
    caller.write_text(f"{line}\n\ntry:\n    pass\nexcept (Error, NotFound):\n    pass\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(caller)]
    subprocess.run(command, check=True, cwd=tmp_path)


@pytest.mark.slow
def test_type_checkers_refuse_what_only_a_client_has(tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        missing("mypy")
    uses = ["observe(print)", "with_servers(['a'])", "renewal_interval + 1"]
    caller = tmp_path / "caller.py"
    lines = ["from mcpool_wsgi import Client, LentClient, PooledClient", ""]
    for kind in (Client, LentClient, PooledClient):
        lines += [f"def use_{kind.__name__}(mc: {kind.__name__}) -> None:"]
        lines += [f"    mc.{use}" for use in uses]
    caller.write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(caller)]
    result = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    refused = [
        int(number) for number in re.findall(r"^caller.py:(\d+): error", result.stdout, re.M)
    ]
    assert [lines[number - 1] for number in refused] == [f"    mc.{use}" for use in uses] * 2
    assert not any(hasattr(LentClient, re.split(r"\W", use)[0]) for use in uses)


@pytest.fixture
def two_servers(embedded: bool) -> Iterator[list[str]]:
    with memcached(embedded=embedded) as one, memcached(embedded=embedded) as other:
        yield [one.address, other.address]


@pytest.mark.servers
@pytest.mark.skipif(sys.version_info < (3, 11), reason="docs/conf.py needs Python 3.11 or later")
@pytest.mark.parametrize("builder", ["html", "linkcheck"])
def test_site_builds_without_a_warning(builder: str, tmp_path: Path) -> None:
    if find_spec("furo") is None:
        missing("what the extra docs names")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-b", builder, str(DOCS), str(tmp_path)]
    subprocess.run(command, check=True)
