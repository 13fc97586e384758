"""How many keys move to another memcached when the servers change.

Prints the table of docs/how-to/kubernetes.md. It needs Linux and memcached.
"""

from __future__ import annotations

import socket
import statistics
from contextlib import ExitStack

from mcpool_wsgi import Client
from mcpool_wsgi.devserver import memcached

KEYS = [f"user:{number}:profile" for number in range(5000)]
HOSTS = [f"127.0.1.{number}" for number in range(1, 12)]
SETS_OF_SERVERS = 5

#: What changes, the share of keys that must move, the servers before and after.
CHANGES = [
    *(
        (f"{n} to {n + 1} servers", 1 / (n + 1), slice(0, n), slice(0, n + 1))
        for n in (1, 2, 3, 5, 10)
    ),
    *(
        (f"1 of {n} servers is replaced", 2 / (n + 1), slice(0, n), slice(1, n + 1))
        for n in (3, 5, 10)
    ),
]


def places(servers: list[str]) -> dict[str, str]:
    """The server of each key."""
    for server in servers:
        Client([server]).flush_all()
    Client(servers, command_timeout=30).set_multi(dict.fromkeys(KEYS, "value"))
    found: dict[str, str] = {}
    for server in servers:
        stored = Client([server], command_timeout=30).get_multi(KEYS)
        found.update({str(key): server for key in stored})
    assert len(found) == len(KEYS), "a key was not stored"
    return found


def main() -> None:
    shares: dict[str, list[float]] = {name: [] for name, *_ in CHANGES}
    for _ in range(SETS_OF_SERVERS):
        with ExitStack() as running, socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            servers = [
                running.enter_context(memcached(host=host, port=port)).address for host in HOSTS
            ]
            for name, _, old, new in CHANGES:
                before, after = places(servers[old]), places(servers[new])
                moved = sum(before[key] != after[key] for key in KEYS)
                shares[name].append(moved / len(KEYS))
    print("| change | promised | mean | range |\n|---|---|---|---|")
    for name, promised, *_ in CHANGES:
        low, mean, high = min(shares[name]), statistics.mean(shares[name]), max(shares[name])
        print(f"| {name} | {promised:.0%} | {mean:.0%} | {low:.0%} to {high:.0%} |")


if __name__ == "__main__":
    main()
