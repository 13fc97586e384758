"""What one client process found in its round."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from .arrangement import CALM, RECOVERY_AIM
from .forks_and_signals import PATIENCE

PROGRAM = Path(__file__).parent.parent / "soak.py"
SLACK = 0.5  # seconds that a machine adds which runs other things
RECOVERY = RECOVERY_AIM + SLACK
HEADINGS = [
    *("round", "servers", "way", "protocol", "kind", "errors", "commands", "reads", "misses"),
    *("failures", "interrupts", "forks", "late", "wrong", "lost", "limit", "longest"),
    *("recovery", "stalled"),
]


class Round:
    """What one client process found."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.result: dict[str, Any] = {}
        self.problems: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, "--client", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, back: float) -> None:
        """Say since when all servers are back."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it crashed
            self._process.stdin.write(f"{back}\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait for what the process found."""
        try:
            output, _ = self._process.communicate(timeout=CALM + 4 * PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            output, _ = self._process.communicate()
            self.problems.append("the process hangs")
        if self._process.returncode:
            self.problems.append(f"the process ended with {self._process.returncode}")
        if not output:
            return
        self.result = result = json.loads(output.splitlines()[-1])
        self.problems += result["wrong"][:10] + result["unexpected"][:10]
        if result["lost slots"]:
            self.problems.append(f"{result['lost slots']} slots are lost")
        if result["longest"] > self.options["command_timeout"] + SLACK:
            self.problems.append(
                f"{result['longest command']} took {result['longest']:.2f} s"
                f" with a command_timeout of {self.options['command_timeout']} s"
            )
        if not result["recovery"] <= RECOVERY:
            self.problems.append(f"recovered after {result['recovery']:.2f} s, not {RECOVERY} s")

    def late_failures(self) -> list[str]:
        """The first failures that came later than the aim."""
        late: list[str] = self.result.get("late failures", [])
        return late

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def row(self) -> list[str]:
        options, result = self.options, self.result
        counts = result.get("counts", {})
        return [
            options["name"],
            str(len(options["servers"])),
            "proxy" if options["proxied"] else "direct",
            "binary" if options["binary"] else "text",
            options["kind"],
            "soft" if options["fail_soft"] else "raises",
            *(
                str(counts.get(name, 0))
                for name in ("commands", "reads", "misses", "failures", "interrupts", "forks")
            ),
            str(result.get("late", "?")),
            str(len(result["wrong"])) if result else "?",
            str(result.get("lost slots", "?")),
            f"{options['command_timeout']:g}",
            f"{result.get('longest', math.nan):.2f}",
            f"{result.get('recovery', math.nan):.2f}",
            f"{result.get('stalled', math.nan):.1f}",
        ]
