"""Pyramid: caches the news for ten seconds and counts visits. ``request.mc`` is the client.

$ pip install pyramid
$ python examples/pyramid_app.py
$ curl http://127.0.0.1:5050/

``pserve examples/pyramid.ini`` needs no code for the middleware.
"""

from datetime import datetime

import pylibmc
from pyramid.config import Configurator

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client


def mc(request):
    return get_client(request.environ)


def index(request):
    news = request.mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
        request.mc.set("news", news, time=10)
    request.mc.add("visits", 0)
    try:
        visits = request.mc.incr("visits") or "?"  # False during an outage
    except pylibmc.NotFound:  # memcached was restarted since add()
        visits = "?"
    return f"Visit {visits}: {news}\n"


def main(global_config, **settings):
    """The app alone, for pyramid.ini."""
    with Configurator(settings=settings) as config:
        config.add_request_method(mc, property=True)
        config.add_route("index", "/")
        config.add_view(index, route_name="index", renderer="string")
        return config.make_wsgi_app()


def make_app(servers):
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    return MemcachedPoolMiddleware(main({}), pool)


if __name__ == "__main__":
    from serving import run

    run(make_app)
