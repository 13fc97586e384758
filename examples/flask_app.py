"""Flask: caches the news for ten seconds and counts visits.

$ pip install flask
$ python examples/flask_app.py
$ curl http://127.0.0.1:5050/
"""

from datetime import datetime

from flask import Flask, request
from serving import run

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware


def make_app(servers):
    app = Flask(__name__)
    pool = ClientPool(Client(servers), 12)
    app.wsgi_app = MemcachedPoolMiddleware(app.wsgi_app, pool)

    @app.get("/")
    def index():
        mc = request.environ["mc.client"]
        news = mc.get("news")
        if news is None:
            news = f"the news of {datetime.now():%H:%M:%S}"  # as if this took long
            mc.set("news", news, time=10)
        mc.add("visits", 0)
        visits = mc.incr("visits")
        return f"Visit {visits}: {news}\n", {"Content-Type": "text/plain; charset=utf-8"}

    return app


if __name__ == "__main__":
    run(make_app)
