"""Flask with an application factory, a blueprint, and a service that knows no request.

$ pip install flask
$ python examples/flask_app.py
$ curl http://127.0.0.1:5050/

It has a command, too: ``flask --app 'examples/flask_app:make_app(["127.0.0.1"])' pages refresh``.
"""

from datetime import datetime

import pylibmc
from flask import Blueprint, Flask, current_app, request

from mcpool_wsgi import (
    Client,
    ClientPool,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    get_client,
)


class News:
    """A service. In a request, its cache uses the client of the request."""

    def __init__(self, cache):
        self.cache = cache

    def latest(self):
        return self.cache.get("news") or self.refresh()

    def refresh(self):
        news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
        self.cache.set("news", news, time=10)
        return news


pages = Blueprint("pages", __name__)


@pages.get("/")
def index():
    mc = get_client(request.environ)
    mc.add("visits", 0)
    try:
        visits = mc.incr("visits") or "?"  # False during an outage
    except pylibmc.NotFound:  # memcached was restarted since add()
        visits = "?"
    news = current_app.extensions["news"].latest()
    return f"Visit {visits}: {news}\n", {"Content-Type": "text/plain; charset=utf-8"}


@pages.get("/healthz")
def healthz():
    return "ok\n"  # it needs no client, and so it takes none


@pages.cli.command("refresh")
def refresh():
    print(current_app.extensions["news"].refresh())


@pages.app_errorhandler(PoolTimeout)
def busy(error):
    return "All memcached connections are in use.\n", 503, {"Retry-After": "1"}


def make_app(servers):
    app = Flask(__name__)
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    app.wsgi_app = MemcachedPoolMiddleware(app.wsgi_app, pool, lazy=True)
    app.extensions["news"] = News(PooledClient(pool))
    app.register_blueprint(pages)
    return app


if __name__ == "__main__":
    from serving import run

    run(make_app)
