"""twemproxy in front of some memcacheds, with the configuration of the page on scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import free_port
from secured import blocks, is_listening, started


@contextmanager
def proxy(directory: Path, servers: Sequence[str], address: str = "") -> Iterator[str]:
    """twemproxy, which Debian calls nutcracker, at a free *address*; yields its address."""
    address = address or f"127.0.0.1:{free_port()}"
    configuration, *_ = blocks("scale.md", "yaml")
    shown, *_ = re.findall(r"(?: +- .+\n)+", configuration)
    configuration = configuration.replace(shown, "".join(f"   - {each}:1\n" for each in servers))
    configuration = re.sub(r"(?<=listen: ).+", address, configuration)
    file = directory / "nutcracker.yml"
    file.write_text(configuration)
    command = ["nutcracker", "-c", str(file), "-a", "127.0.0.1", "-s", str(free_port())]
    command += ["-o", str(directory / "nutcracker.log"), "-p", str(directory / "nutcracker.pid")]
    with started(command, directory / "output", lambda: is_listening(address)):
        yield address
