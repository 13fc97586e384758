"""Plain WSGI that streams: it releases its client before the slow part begins.

$ python examples/plain_streaming.py
$ curl -N http://127.0.0.1:5050/
"""

import time
from datetime import datetime

import pylibmc

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client


def app(environ, start_response):
    mc = get_client(environ)
    news = mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
        mc.set("news", news, time=10)
    mc.add("visits", 0)
    try:
        visits = mc.incr("visits") or "?"  # False during an outage
    except pylibmc.NotFound:  # memcached was restarted since add()
        visits = "?"
    # From here on another request may use the client, while this one streams.
    environ["mc.client.release"]()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return stream(f"Visit {visits}: {news}\n")


def stream(greeting):
    yield greeting.encode()
    for number in range(10, 0, -1):
        time.sleep(1)
        yield b"%d\n" % number


def make_app(servers):
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    return MemcachedPoolMiddleware(app, pool)


if __name__ == "__main__":
    from serving import run

    run(make_app)
