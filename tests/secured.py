"""A memcached that wants a login or TLS, and the tunnel to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from harness import eventually, missing

from mcpool_wsgi.devserver.launch import connect

PAGES = Path(__file__).parent.parent / "docs" / "how-to"
REALM = "cache"  # what follows the @ in a username of SASL


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in this *language* on a page of the documentation."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        if host:
            connect(host, int(port), None).close()
        else:
            connect("", 0, address).close()
    except OSError:
        return False
    return True


@contextmanager
def started(
    command: list[str],
    log: Path,
    is_up: Callable[[], bool],
    environ: Mapping[str, str] = os.environ,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* until the end of the block. What it prints goes to *log*."""
    if shutil.which(command[0]) is None:
        missing(command[0])
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        eventually(lambda: process.poll() is not None or is_up(), f"{command} is up")
        assert process.returncode is None, log.read_text(errors="replace")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def memcached(
    directory: Path,
    *options: str,
    port: int = -1,
    log: str = "memcached.log",
    environ: Mapping[str, str] = os.environ,
) -> Iterator[str]:
    """The real memcached with these *options*; yields its address."""
    listening = directory / "port"
    listening.unlink(missing_ok=True)
    command = ["memcached", "-U", "0", "-l", "127.0.0.1", "-p", str(port), *options]
    command += ["-u", "root"] if os.geteuid() == 0 else []
    environ = {**environ, "MEMCACHED_PORT_FILENAME": str(listening)}

    def address() -> str:
        return f"127.0.0.1:{listening.read_text().rpartition(':')[2].strip()}"

    def is_up() -> bool:
        return listening.exists() and is_listening(address())

    with started(command, directory / log, is_up, environ):
        yield address()


class Users:
    """The users of a memcached with SASL, as the page on SASL makes them."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("saslpasswd2") is None:
            missing("saslpasswd2")
        paths = os.environ.get("SASL_PATH", "/usr/lib64/sasl2").split(":")
        #: The files of the one mechanism that clients need.
        self.mechanisms = [file for path in paths for file in Path(path).glob("libplain.so*")]
        if not self.mechanisms:
            missing("libplain.so in SASL_PATH (docs/how-to/sasl.md)")
        self._database = directory / "sasldb2"
        self._log = directory / "memcached.log"
        configuration, *_ = blocks("sasl.md", "ini")
        (directory / "memcached.conf").write_text(
            configuration.replace("/etc/sasl2/memcached-sasldb2", str(self._database))
        )
        #: The environment of the memcached. It finds its own mechanisms.
        self.environ = {**os.environ, "SASL_CONF_PATH": str(directory)}
        self.environ.pop("SASL_PATH", None)

    def set_password(self, user: str, password: str) -> None:
        command = ["saslpasswd2", "-p", "-c", "-a", "memcached", "-u", REALM]
        command += ["-f", str(self._database), user]
        subprocess.run(command, input=password.encode(), check=True)

    def logins(self) -> int:
        """How often somebody tried to log in: memcached must run with ``-vv``."""
        return self._log.read_bytes().count(b"mech:  ")

    def connections(self) -> int:
        """How many clients of the binary protocol have connected."""
        return self._log.read_bytes().count(b"new binary client connection")


@contextmanager
def tunnel(directory: Path, accept: str, connect: str, **options: str) -> Iterator[Path]:
    """stunnel with the configuration of the page on TLS; yields the path of its log.

    :param options: what is different from the page.
    """
    given = {"accept": accept, "connect": connect, **options}
    configuration, *_ = blocks("tls.md", "ini")
    for option, value in given.items():
        line = f"{option} = {value}"
        configuration, count = re.subn(rf"^;?{option} = .*$", line, configuration, flags=re.M)
        assert count == 1, option
    file, log = directory / "tunnel.conf", directory / "tunnel.log"
    file.write_text(f"syslog = no\n{configuration}")
    with started(["stunnel", str(file)], log, lambda: is_listening(accept)):
        yield log
