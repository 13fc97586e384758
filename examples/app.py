"""The Werkzeug app of the blog post "Pooling with pylibmc" (2009). It shows the value of a key.

$ python examples/app.py
$ curl http://127.0.0.1:5050/greeting
"""

from pprint import pformat

from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Request, Response

from mcpool_wsgi import Client, ClientPool, InvalidKey, MemcachedPoolMiddleware, get_client

MISSING = object()


@Request.application
def my_app(request):
    mc = get_client(request.environ)
    key = request.path[1:]
    try:
        value = mc.get(key, MISSING)
    except InvalidKey as error:
        raise BadRequest(str(error)) from error
    if value is MISSING:
        raise NotFound(f"There is no {key!r}.")
    return Response(pformat(value))


def make_app(servers):
    mc = Client(servers, fail_soft=True)
    mc.set_multi({"greeting": "Hello from memcached!", "answer": 42, "nothing": 0})
    return MemcachedPoolMiddleware(my_app, ClientPool(mc, 12))


if __name__ == "__main__":
    from serving import run

    run(make_app, try_path="/greeting")
