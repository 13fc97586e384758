"""A real browser, Debian's chromium, over a pipe. It speaks the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import eventually, missing

ANSWER = 60.0  # seconds


class Browser:
    """One tab. *errors* has what its console would show as an error or a warning."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process = process
        self._commands = commands
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._session: str | None = None
        #: The requests of the page: method, URL and status.
        self.requests: list[tuple[str, int]] = []
        self.errors: list[str] = []
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        attached = self.do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def _read(self, answers: int) -> None:
        with os.fdopen(answers, "rb") as pipe:
            rest = b""
            while chunk := pipe.read1():
                *messages, rest = (rest + chunk).split(b"\0")
                for message in messages:
                    self._note(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        method = message.get("method")
        if "id" in message:
            self._answers[message["id"]] = message
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.responseReceived":
            self.requests.append((params["response"]["url"], params["response"]["status"]))

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        eventually(
            lambda: number in self._answers or self._process.poll() is not None,
            method,
            deadline=ANSWER,
        )
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, url: str) -> None:
        self.do("Page.navigate", url=url)
        eventually(lambda: self.evaluate("document.readyState") == "complete", deadline=ANSWER)

    def evaluate(self, script: str) -> Any:
        found = self.do(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """What a reader sees of the first element that *selector* finds."""
        return str(self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def resize(self, width: int, height: int = 900) -> None:
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def prefer(self, color_scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": color_scheme}]
        self.do("Emulation.setEmulatedMedia", features=features)

    def tree(self) -> list[tuple[str, str]]:
        """What a screen reader is given: roles and names."""
        nodes = self.do("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser for the length of a ``with`` block."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium")
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()

    def pipes() -> None:
        # The browser reads commands from 3 and writes answers to 4.
        first, second = (
            fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (command_read, answer_write)
        )
        os.dup2(first, 3)
        os.dup2(second, 4)

    profile = tempfile.mkdtemp(prefix="chromium-")
    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--hide-scrollbars",
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            f"--user-data-dir={profile}",
        ],
        preexec_fn=pipes,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(command_read)
    os.close(answer_write)
    try:
        yield Browser(process, command_write, answer_read)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        os.close(command_write)
        shutil.rmtree(profile, ignore_errors=True)
