"""A process that uses a pool all the time, and tells how it went: for test_discovery_live.py.

Its argument is JSON: "keys", "behaviors", and "servers" or "source". It reads all the time. For
each number on its input it stores all keys with values of that number, and prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.discovery import Discovery


class Follower:
    def __init__(self, options: dict[str, Any]) -> None:
        self.keys = options["keys"]
        servers = options.get("servers", ["127.0.0.1:1"])
        client = Client(servers, options["behaviors"], fail_soft=True)
        self.pool = ClientPool(client, 3)
        if "source" in options:
            Discovery(self.pool, options["source"], interval=0.05).start()
        self.errors: list[str] = []

    def read(self, keys: list[str]) -> None:
        """Read *keys*, again and again."""
        while True:
            for key in keys:
                value = None
                try:
                    with self.pool.reserve() as mc:
                        value = mc.get(key)
                except BaseException as error:
                    self.errors.append(repr(error))
                if value is not None and value.split()[0] != key:
                    self.errors.append(f"{key}: {value}")

    def write(self, number: int) -> str:
        """Store all keys with values of this *number*, and report."""
        stored = 0
        try:
            with self.pool.reserve() as mc:
                missed = mc.set_multi({key: f"{key} {number}" for key in self.keys})
                stored = len(self.keys) - len(missed)
        except BaseException as error:
            self.errors.append(repr(error))
        return json.dumps({"stored": stored, "errors": self.errors[:10]})


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    if not options.get("dnspython", True):
        sys.modules["dns"] = None  # type: ignore[assignment]
    follower = Follower(options)
    for part in range(2):
        threading.Thread(target=follower.read, args=(follower.keys[part::2],), daemon=True).start()
    for line in sys.stdin:
        print(follower.write(int(line)), flush=True)
