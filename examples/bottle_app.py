"""Bottle: caches the news for ten seconds and counts visits.

$ pip install bottle
$ python examples/bottle_app.py
$ curl http://127.0.0.1:5050/
"""

from datetime import datetime

import pylibmc
from bottle import Bottle, request, response

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client

app = Bottle()


@app.get("/")
def index():
    mc = get_client(request.environ)
    news = mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
        mc.set("news", news, time=10)
    mc.add("visits", 0)
    try:
        visits = mc.incr("visits") or "?"  # False during an outage
    except pylibmc.NotFound:  # memcached was restarted since add()
        visits = "?"
    response.content_type = "text/plain; charset=utf-8"
    return f"Visit {visits}: {news}\n"


def make_app(servers):
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    return MemcachedPoolMiddleware(app, pool)


if __name__ == "__main__":
    from serving import run

    run(make_app)
