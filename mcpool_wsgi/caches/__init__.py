"""
Caches
======

The pool under other people's cache libraries. Each module is for one library, and it needs that
library:

==========================================  ============================================
:mod:`mcpool_wsgi.caches.django`            Django's ``CACHES``
:mod:`mcpool_wsgi.caches.dogpile`           dogpile.cache, as the backend ``mcpool``
:mod:`mcpool_wsgi.caches.flask_caching`     Flask-Caching's ``CACHE_TYPE``
:mod:`mcpool_wsgi.caches.beaker`            Beaker, as the type ``mcpool``
==========================================  ============================================

cachelib needs none: ``cachelib.MemcachedCache(PooledClient(pool))``.

All of them use a :class:`~mcpool_wsgi.PooledClient`. So all threads of a process share one pool,
and in a request behind :class:`~mcpool_wsgi.MemcachedPoolMiddleware` with the same pool, the
library uses the client of the request.
"""
