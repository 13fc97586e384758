"""Django in a single file: caches the news for ten seconds and counts visits.

$ pip install django
$ python examples/django_app.py
$ curl http://127.0.0.1:5050/

In a project of your own, ``make_app`` is what ``wsgi.py`` does.
"""

from datetime import datetime

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from serving import run

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

settings.configure(ROOT_URLCONF=__name__)


def index(request):
    mc = request.environ["mc.client"]
    news = mc.get("news")
    if news is None:
        news = f"the news of {datetime.now():%H:%M:%S}"  # as if this took long
        mc.set("news", news, time=10)
    mc.add("visits", 0)
    visits = mc.incr("visits")
    return HttpResponse(f"Visit {visits}: {news}\n", content_type="text/plain; charset=utf-8")


urlpatterns = [path("", index)]


def make_app(servers):
    pool = ClientPool(Client(servers), 12)
    return MemcachedPoolMiddleware(get_wsgi_application(), pool)


if __name__ == "__main__":
    run(make_app)
