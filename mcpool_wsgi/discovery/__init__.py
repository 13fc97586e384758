"""
Discovery
=========

Follows servers that change. It asks a *source* for the servers and gives them to the pool.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool
    from mcpool_wsgi.discovery import Discovery

    pool = ClientPool(Client(["memcached.cache.svc:11211"], fail_soft=True), 12)
    discovery = Discovery(pool, "dns+memcached.cache.svc:11211")
    discovery.start()

These are the sources:

=============================  ===========================================================
``dns+host:port``              all addresses of a name, for example of a headless service of
                               Kubernetes. A name that has IPv4 addresses is used with these
                               only.
``dnssrv+name``                the SRV records of a name. The servers are the names in the
                               records, so a server that gets another address keeps its keys.
                               Priorities and weights are not used.
``elasticache+host:port``      the configuration endpoint of Amazon ElastiCache or Google
                               Memorystore (*Auto Discovery*, ``config get cluster``)
``host:port``                  the same
=============================  ===========================================================

A missing port is 11211.

``dnssrv+`` needs dnspython: ``pip install 'mcpool-wsgi[dns]'``. ``dns+`` uses dnspython if
it is installed. It asks the system (``getaddrinfo``) if it is not, or if DNS does not know
the name, because the name may be in ``/etc/hosts``. The system tells no TTL.

:meth:`~Discovery.start` asks once, so that the first request finds the servers. Then a
daemon thread asks again and again, until :meth:`~Discovery.stop`. If the pool is closed, the
thread ends when it would ask next. It asks when the TTL of the answer is over, but not sooner than
*min_interval* and not later than *interval*. An answer without a TTL is good for *interval*.

The order of the servers in an answer means nothing. The pool is given them sorted, and only
if they have changed. Then all clients of the pool are renewed. If a name in SRV records has
got another address, they are renewed too, so the name is looked up anew.

If the source does not answer, or the answer is empty or wrong, the pool keeps its servers.
One warning is logged, and one line when the source answers again. The same is true for the
first question, so a site can start while its source is down. After each failure in a row
the thread waits twice as long, from *min_interval* up to *interval*.
:meth:`~Discovery.refresh` raises instead: call it before, if the site must not start then.

A forked child asks in a thread of its own. But a server that forks in C (uWSGI) may fork
while this thread runs Python code, and Python does not survive that. With such a server,
start it after the fork: in a ``postfork`` function, with ``enable-threads``.

:mod:`mcpool_wsgi.config` makes pools from such names.
"""

from .discovery import Discovery as Discovery
from .elasticache import Configuration as Configuration
from .elasticache import read_configuration as read_configuration
from .sources import is_source as is_source
from .sources import look_up as look_up
from .sources import source_of as source_of
