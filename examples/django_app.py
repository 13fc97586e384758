"""Django in a single file: caches the news for ten seconds and counts visits.

$ pip install django
$ python examples/django_app.py
$ curl http://127.0.0.1:5050/

In your project, ``wsgi.py`` does what ``make_app`` does here.
"""

from datetime import datetime

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from serving import run

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client

settings.configure(ROOT_URLCONF=__name__)


def index(request):
    mc = get_client(request.environ)
    news = mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # pretend that this takes long
        mc.set("news", news, time=10)
    mc.add("visits", 0)
    visits = mc.incr("visits") or "?"  # False during an outage
    return HttpResponse(f"Visit {visits}: {news}\n", content_type="text/plain; charset=utf-8")


urlpatterns = [path("", index)]


def make_app(servers):
    pool = ClientPool(Client(servers, fail_soft=True), 12)
    return MemcachedPoolMiddleware(get_wsgi_application(), pool)


if __name__ == "__main__":
    run(make_app)
