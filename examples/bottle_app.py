"""Bottle: caches the news for ten seconds and counts visits.

$ pip install bottle
$ python examples/bottle_app.py
$ curl http://127.0.0.1:5050/
"""

from datetime import datetime

from bottle import Bottle, request, response
from serving import run

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

app = Bottle()


@app.get("/")
def index():
    mc = request.environ["mc.client"]
    news = mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # as if this took long
        mc.set("news", news, time=10)
    mc.add("visits", 0)
    visits = mc.incr("visits")
    response.content_type = "text/plain; charset=utf-8"
    return f"Visit {visits}: {news}\n"


def make_app(servers):
    pool = ClientPool(Client(servers), 12)
    return MemcachedPoolMiddleware(app, pool)


if __name__ == "__main__":
    run(make_app)
