"""
What a tunnel costs
===================

Prints the table of ``docs/how-to/tls.md``: commands over TCP, over a Unix socket, and through
stunnel over TLS. Client, tunnel and memcached share one core, so that a time has all their work
in it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

import trustme
from measure import interleaved, machine, one_core, timer

from mcpool_wsgi import Client
from mcpool_wsgi.devserver import memcached

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import secured

HOST = "cache.example.com"
ROUNDS = 200
ROWS = {
    "`get` of 100 bytes": "mc.get('small')",
    "`set` of 100 bytes": "mc.set('small', small)",
    "`get` of 10,000 bytes": "mc.get('large')",
    "`get_multi` of 10 keys": "mc.get_multi(keys)",
    "a new connection and its first `get`": "mc.clone().get('small')",
}
SMALL, LARGE = b"v" * 100, b"v" * 10_000
KEYS = [f"key{number}" for number in range(10)]


def addresses(directory: Path, running: ExitStack) -> dict[str, str]:
    """The address of each contender."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    key = directory / "key.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(key))
    tls = ("-Z", "-o", f"ssl_chain_cert={key},ssl_key={key}")
    behind = running.enter_context(secured.memcached(directory, *tls))
    options = {"CAfile": str(directory / "ca.pem"), "checkHost": HOST}
    accept = str(directory / "tls")
    running.enter_context(secured.tunnel(directory, accept, behind, **options))
    plain = running.enter_context(memcached(embedded=False))
    local = running.enter_context(memcached(embedded=False, unix_socket=str(directory / "unix")))
    return {"TCP": plain.address, "Unix socket": local.address, "tunnel, TLS": accept}


def main() -> None:
    print(machine())
    with ExitStack() as running:
        running.enter_context(one_core())
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        clients = {
            name: Client([address]) for name, address in addresses(directory, running).items()
        }
        print("| |", *(f"{name} |" for name in clients), "ratio to TCP |")
        print("|---|" + "---|" * (len(clients) + 1))
        for client in clients.values():
            client.set_multi(dict.fromkeys(KEYS, SMALL))
            client.set("small", SMALL)
            client.set("large", LARGE)
        for row, statement in ROWS.items():
            timers: dict[str, Callable[[], float]] = {
                name: timer(statement, mc=client, small=SMALL, keys=KEYS)
                for name, client in clients.items()
            }
            medians = [
                statistics.median(figures) / 1000
                for figures in interleaved(timers, ROUNDS).values()
            ]
            print(f"| {row} |", *(f"{us:.3g} µs |" for us in medians), end=" ")
            print(f"{medians[-1] / medians[0]:.2g} |")


if __name__ == "__main__":
    main()
