"""Flask: caches the news for ten seconds and counts visits.

$ pip install flask
$ python examples/flask_app.py
$ curl http://127.0.0.1:5050/
"""

from datetime import datetime

from flask import Flask, request
from serving import run

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client


def make_app(servers):
    app = Flask(__name__)
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    app.wsgi_app = MemcachedPoolMiddleware(app.wsgi_app, pool)

    @app.get("/")
    def index():
        mc = get_client(request.environ)
        news = mc.get("news")
        if news is None:
            news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
            mc.set("news", news, time=10)
        mc.add("visits", 0)
        visits = mc.incr("visits") or "?"  # False during an outage
        return f"Visit {visits}: {news}\n", {"Content-Type": "text/plain; charset=utf-8"}

    return app


if __name__ == "__main__":
    run(make_app)
