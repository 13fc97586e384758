"""Reads a page of the documentation, and does what it says."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from harness import eventually, free_port, missing
from paste.deploy import loadfilter

from mcpool_wsgi import MemcachedPoolMiddleware

#: What precedes a block that does not run: the reason. What ends a server: its command.
COMMENT = r"(?:^% (?P<what>not run|stop): (?P<why>.+)\n+)?"
FENCE = re.compile(
    COMMENT + r"^```(?P<directive>\{.+?\} ?)?(?P<language>.*)\n"
    r"(?::caption: (?P<file>.+)\n\n)?(?P<text>(?:.*\n)*?)```$",
    re.MULTILINE,
)
DIRECTIVE = re.compile(r"^\.\. code-block:: (\w+)\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
COMMAND = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PORT = re.compile(r"(127\.0\.0\.1:|--port )(11211|8000)\b")
#: Commands that serve until they are stopped.
SERVERS = ("gunicorn ", "python -m mcpool_wsgi.devserver ")


class Block(NamedTuple):
    language: str
    text: str
    line: int  # the one before it
    file: str | None
    is_run: bool
    stop: str | None


def blocks_of_page(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match["directive"] not in (None, "{code-block} "):
            continue
        yield Block(
            match["language"],
            match["text"],
            text.count("\n", 0, match.start("text")),
            match["file"],
            match["what"] != "not run",
            match["why"] if match["what"] == "stop" else None,
        )


def blocks_of_docstring(docstring: str) -> Iterator[Block]:
    for match in DIRECTIVE.finditer(f"{docstring}\n"):
        line = docstring.count("\n", 0, match.start(2))
        yield Block(match[1], textwrap.dedent(match[2]).rstrip() + "\n", line, None, True, None)


class Reader:
    """Runs the blocks of a page one after the other, like somebody who reads it.

    :param directory: where the reader writes files and runs commands.
    :param address: the memcached to use for ``127.0.0.1:11211``.
    :param stack: ends the servers that the reader has started.
    """

    def __init__(self, page: str, directory: Path, address: str, stack: ExitStack) -> None:
        self.page = page
        self.directory = directory
        self.stack = stack
        self.names: dict[str, Any] = {"__name__": "page"}
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"11211": address.rpartition(":")[2], "8000": str(free_port())}

    def read(self, blocks: list[Block]) -> None:
        if any(block.text.startswith(f"$ {SERVERS[1]}") for block in blocks):
            self.ports["11211"] = str(free_port())  # the page starts a memcached of its own
        for block in blocks:
            if block.stop:
                self.stop(self.in_use(block.stop))
            text = self.in_use(block.text)
            if block.file is not None:
                with (self.directory / block.file).open("a") as file:
                    file.write(text)
            elif block.is_run:
                getattr(self, f"run_{block.language}")(text, block.line)
        self.end_threads()

    def end_threads(self) -> None:
        """End the threads that the examples have started."""
        for name, end in (("discovery", "stop"), ("server", "shutdown")):
            if hasattr(self.names.get(name), end):
                getattr(self.names[name], end)()

    def in_use(self, text: str) -> str:
        """*text* with the ports that are in use in place of those that the page shows."""
        return PORT.sub(lambda match: match[1] + self.ports[match[2]], text)

    def run_python(self, text: str, line: int) -> None:
        exec(compile("\n" * line + text, self.page, "exec"), self.names)

    def run_pycon(self, text: str, line: int) -> None:
        test = doctest.DocTestParser().get_doctest(text, {}, "", self.page, line)
        test.globs = self.names
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)

    def run_diff(self, text: str, line: int) -> None:
        for imports in text.splitlines():
            exec(imports[1:], {})

    def run_ini(self, text: str, line: int) -> None:
        config = self.directory / "app.ini"
        config.write_text(text)
        wrapped = loadfilter(f"config:{config}", "memcached")(lambda environ, start_response: [])
        assert isinstance(wrapped, MemcachedPoolMiddleware)

    def run_text(self, text: str, line: int) -> None:
        """It is no code."""

    def run_yaml(self, text: str, line: int) -> None:
        (self.directory / "rules.yml").write_text(text)
        assert "SUCCESS" in self.run("promtool check rules rules.yml")

    def run_console(self, text: str, line: int) -> None:
        for command, answer in COMMAND.findall(text):
            if command.startswith(SERVERS):
                self.start(command, answer)
            else:
                output = self.run(command)
                assert answers(answer, output), f"{self.page}:{line}: {command}\n{output}"

    def environment(self) -> dict[str, Any]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"cwd": self.directory, "env": {**os.environ, "PATH": path}}

    def run(self, command: str) -> str:
        if shutil.which(command.split()[0], path=self.environment()["env"]["PATH"]) is None:
            missing(command.split()[0])
        done = subprocess.run(
            shlex.split(command), text=True, capture_output=True, timeout=60, **self.environment()
        )
        output: str = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        return output

    def start(self, command: str, answer: str) -> None:
        """Start a server, and stop the one that was started by the same *command*."""
        self.stop(command)
        output = self.directory / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                shlex.split(command), stdout=file, stderr=file, **self.environment()
            )
        self.servers[command] = process
        self.stack.callback(self.stop, command)
        port = int(re.findall(r"(?:127\.0\.0\.1:|--port )(\d+)", command)[0])

        def listens() -> bool:
            assert process.poll() is None, f"{command} has ended: {output.read_text()}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens)
        eventually(lambda: answers(answer, output.read_text()), command)

    def stop(self, command: str) -> None:
        for started in [started for started in self.servers if started.startswith(command)]:
            process = self.servers.pop(started)
            process.terminate()
            process.wait(30)


def answers(shown: str, output: str) -> bool:
    """Whether *output* is what a page shows. ``...`` stands for anything."""
    return not shown or doctest.OutputChecker().check_output(shown, output, doctest.ELLIPSIS)
