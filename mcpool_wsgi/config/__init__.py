"""
Configuration
=============

Makes clients, pools and the middleware from environment variables, a URL or an ``.ini`` file.
An option that is unknown, missing or wrong raises a :exc:`ValueError` at start-up. The error
names the option.

From the environment:

.. code-block:: python

    from mcpool_wsgi.config import pool_from_environ, pool_from_url

    pool = pool_from_environ(12)

From a URL, with options in its query:

.. code-block:: python

    pool_from_url("memcached://10.0.1.1,10.0.1.2:11212/?connect_timeout=300", 12)
    pool_from_url("memcached:///run/memcached.sock?fail_soft=true", 12)

With PasteDeploy, for ``pserve`` for example:

.. code-block:: ini

    [filter:memcached]
    use = egg:mcpool-wsgi
    servers = 10.0.1.1, 10.0.1.2:11212
    size = 12
    behaviors.connect_timeout = 300

    [pipeline:main]
    pipeline = memcached app

Servers that change
-------------------

In place of servers there can be one source of :mod:`mcpool_wsgi.discovery`:

.. code-block:: console

    MEMCACHED_SERVERS=dns+memcached.cache.svc:11211
    memcached://dnssrv+_memcache._tcp.memcached.cache.svc/?fail_soft=true
    servers = elasticache+cache.abc123.cfg.use1.cache.amazonaws.com:11211

*   A pool from :func:`pool_from_environ` or :func:`pool_from_url`, and the pool of a
    middleware from an ``.ini`` file, **follows the source**: it gets the current servers, and
    each change. The :class:`~mcpool_wsgi.discovery.Discovery` has its defaults, and it ends
    with the first question after the pool was closed. If the source does not answer at start-up,
    one warning is logged. Until it answers, every command fails at once, or is a miss with
    ``fail_soft``.
*   A client from :func:`client_from_environ` or :func:`client_from_url` has **the current
    servers, and keeps them**. If the source does not answer, an :exc:`OSError` is raised.
*   A source stands alone. With other servers or a second source it is a :exc:`ValueError`.
*   With a server that forks in C (uWSGI), make the pool after the fork (``lazy-apps``).

Options
-------

These are the options. One that is left out has the default of its class.

==================================  =================================================
``servers``                         with commas, semicolons or spaces between them, or
                                    one source; the default is those of the environment
``username``, ``password``          credentials; they imply ``binary``
``binary``, ``fail_soft``           of :class:`~mcpool_wsgi.Client`; a URL has them
                                    in its query
``command_timeout``                 the same
``allow_pickle``                    the same
``serializer``                      the same; an argument of the functions in this module
``behaviors.*``                     the same; in a query without ``behaviors.``
``pool``                            ``bounded``, the default, or ``thread-mapped``
``name``                            of the pool: log lines show it
``size``, ``timeout``               of the bounded pool; ``size`` is its ``n_slots``
``environ_key``, ``lazy``           of :class:`~mcpool_wsgi.MemcachedPoolMiddleware`
``slow_after``, ``server_timing``   the same
==================================  =================================================

In an ``.ini`` file, write ``%%`` for a ``%``.
"""

from .environment import SERVICES as SERVICES
from .environment import client_from_environ as client_from_environ
from .environment import pool_from_environ as pool_from_environ
from .paste import filter_app_factory as filter_app_factory
from .paste import filter_factory as filter_factory
from .urls import client_from_url as client_from_url
from .urls import pool_from_url as pool_from_url
