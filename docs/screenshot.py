"""Draws docs/status.png: a server under load, two memcacheds, and a browser that looks.

$ python docs/screenshot.py

It needs memcached, chromium and `pip install -e '.[test]'`. It takes five minutes: so much of the
past is on the page.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import waitress
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client
from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.status import StatusApp

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from browser import browser

THREADS = 20  # one for each visitor and for the page
SLOTS = 12
WIDTH = 1200


def shop(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    mc = get_client(environ)
    if environ["PATH_INFO"].startswith("/report"):
        return [monthly_report(mc)]
    return [product(mc, environ["PATH_INFO"].rpartition("/")[2])]


def product(mc: Any, number: str) -> bytes:
    if mc.get(f"product:{number}") is None:
        mc.set(f"product:{number}", "x" * 2000, time=30)
    time.sleep(random.uniform(0.002, 0.03))
    return b"a product"


def monthly_report(mc: Any) -> bytes:
    rows = mc.get_multi([f"product:{number}" for number in range(40)])
    time.sleep(random.uniform(1, 6))
    return str(len(rows)).encode()


def visit(url: str, end: float, path: str, largest: int, pause: float) -> None:
    """Ask for paths until *end*. Visitors come in waves, and the last wave ends with it."""
    while (left := end - time.monotonic()) > 0:
        number = round(random.triangular(1, largest, 1))
        with contextlib.suppress(urllib.error.HTTPError):  # 503: all clients are in use
            urllib.request.urlopen(url + path.format(number), timeout=30).close()
        wave = 1.05 + math.cos((left - 15) / 25)
        time.sleep(min(random.expovariate(1) * pause / wave, left))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=310, help="how long the load lasts")
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name("status.png"))
    options = parser.parse_args()
    with memcached() as first, memcached() as second:
        servers = [first.address, second.address]
        pool = ClientPool(Client(servers, fail_soft=True), SLOTS, name="shop")
        app = DispatcherMiddleware(
            MemcachedPoolMiddleware(shop, pool), {"/-/memcached": StatusApp(pool)}
        )
        server = waitress.create_server(app, port=0, threads=THREADS)
        threading.Thread(target=server.run, daemon=True).start()
        url = f"http://127.0.0.1:{server.effective_port}"
        end = time.monotonic() + options.seconds
        kinds = [("/products/{}", 600, 0.04)] * 6 + [("/reports/{}", 12, 6)] * 13
        visitors = [threading.Thread(target=visit, args=(url, end, *kind)) for kind in kinds]
        for visitor in visitors:
            visitor.start()
        time.sleep(options.seconds - 10)  # while they still come
        with browser() as tab:
            tab.resize(WIDTH)
            tab.open(f"{url}/-/memcached")
            tab.screenshot(options.file)
        for visitor in visitors:
            visitor.join()
        print(options.file, options.file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
