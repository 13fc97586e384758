"""Falcon: caches the news for ten seconds and counts visits.

$ pip install falcon
$ python examples/falcon_app.py
$ curl http://127.0.0.1:5050/
"""

from datetime import datetime

import falcon
import pylibmc

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client


class Index:
    def on_get(self, req, resp):
        mc = get_client(req.env)
        news = mc.get("news")
        if news is None:
            news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
            mc.set("news", news, time=10)
        mc.add("visits", 0)
        try:
            visits = mc.incr("visits") or "?"  # False during an outage
        except pylibmc.NotFound:  # memcached was restarted since add()
            visits = "?"
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = f"Visit {visits}: {news}\n"


def make_app(servers):
    app = falcon.App()
    app.add_route("/", Index())
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    return MemcachedPoolMiddleware(app, pool)


if __name__ == "__main__":
    from serving import run

    run(make_app)
