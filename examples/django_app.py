"""Django in a single file, with its cache and the middleware on one pool.

$ pip install django
$ python examples/django_app.py
$ curl http://127.0.0.1:5050/

In your project, ``settings.py`` has the settings of ``make_app``, and ``wsgi.py`` does the rest.
"""

import secrets
from datetime import datetime

import pylibmc
from django.conf import settings
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

from mcpool_wsgi import MemcachedPoolMiddleware, PoolTimeout, get_client


def make_news():
    return f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long


def index(request):
    news = cache.get_or_set("news", make_news, 10)
    mc = get_client(request.environ)  # which the cache has used as well
    mc.add("visits", 0)
    try:
        visits = mc.incr("visits") or "?"  # False during an outage
    except pylibmc.NotFound:  # memcached was restarted since add()
        visits = "?"
    return HttpResponse(f"Visit {visits}: {news}\n", content_type="text/plain; charset=utf-8")


def healthz(request):
    return HttpResponse("ok\n")  # it needs no client, and so it takes none


class BusyMiddleware:
    """Django would answer 500 to an exception of a view."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if isinstance(exception, PoolTimeout):
            text = "All memcached connections are in use.\n"
            return HttpResponse(text, status=503, headers={"Retry-After": "1"})
        return None


urlpatterns = [path("", index), path("healthz", healthz)]


def make_app(servers):
    settings.configure(
        SECRET_KEY=secrets.token_hex(),  # Django 4 reads it to report an error
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[f"{__name__}.BusyMiddleware"],
        CACHES={
            "default": {
                "BACKEND": "mcpool_wsgi.caches.django.PooledCache",
                "LOCATION": servers,
                "OPTIONS": {"size": 12, "fail_soft": True},
            }
        },
    )
    application = get_wsgi_application()
    return MemcachedPoolMiddleware(application, cache.pool, lazy=True)


if __name__ == "__main__":
    from serving import run

    run(make_app)
