"""
Metrics
=======

Exports what pools and their commands do to Prometheus, for any number of pools. It needs
``prometheus_client``; ``pip install 'mcpool-wsgi[metrics]'`` installs it.

.. code-block:: python

    from prometheus_client import REGISTRY
    from mcpool_wsgi.metrics import PoolCollector

    REGISTRY.register(PoolCollector({"default": pool}))

If OpenTelemetry's semantic conventions have a name (``db.client.*``), the metric has this name
in the form of Prometheus. A connection is a client. The exception is
``db_client_connections``: OpenTelemetry's ``db.client.connection.count`` would end in
``_count``, which Prometheus keeps for histograms. All metrics have the label
``db_client_connection_pool_name``, the name of the pool.

==========================================  ================================================
``db_client_operation_duration_seconds``    histogram of the time of commands, by
                                            ``db_operation_name``, which is pylibmc's name of
                                            the command, and ``error_type``, which is the class
                                            of the error, or empty
``mcpool_hits_total``                       keys that ``get``, ``gets`` and ``get_multi`` found,
                                            by ``db_operation_name``
``mcpool_misses_total``                     keys that they did not find, likewise
``mcpool_failures_total``                   commands that memcached could not do
``mcpool_up``                               1 if memcached could do the last command, 0 if not
``db_client_connection_wait_time_seconds``  histogram of the time that reservations waited, with
                                            those that timed out and those that did not wait
``db_client_connection_timeouts_total``     reservations that timed out
``mcpool_reservations_total``               reservations that got a client
``mcpool_waits_total``                      reservations that had to wait
``mcpool_longest_wait_seconds``             the longest wait since the start
``mcpool_longest_recent_wait_seconds``      the longest wait of the last minute or two
``db_client_connections``                   clients; ``db_client_connection_state`` is ``idle``
                                            or ``used``
``db_client_connection_max``                the most clients of a ``ClientPool``
``db_client_connection_pending_requests``   threads that wait for a client
``mcpool_clients_made_total``               clients that were made
``mcpool_clients_renewed_total``            clients that replaced another, by ``reason``
==========================================  ================================================

Errors are counted by kind in ``db_client_operation_duration_seconds_count{error_type!=""}``.
``mcpool_failures_total`` has those that are not the fault of the caller. With ``fail_soft``,
both count what the caller gets as a miss. Of several servers, one may fail, and another one does
the command then. That is no error of the command, but counts as a failure.

``mcpool_up`` is as old as the last command: no command is sent to find it out. It is absent
until the first command. It stays at 0 while nobody uses the pool. If a pool has several servers,
it tells of the one that had the last command. So use it to look, and ``mcpool_failures_total``
for alerts.

Commands are counted from the moment the collector is made. Commands of other people's clients,
such as :class:`pylibmc.Client`, are not.

Several workers
---------------

A forked child begins with zeros, so each worker process has figures of its own. The multiprocess
mode of ``prometheus_client`` adds them up, with the same collector:

-   Set ``PROMETHEUS_MULTIPROC_DIR`` to a directory before Python starts, and empty it before the
    server starts.
-   Make the collector as above.
-   Let a ``MultiProcessCollector`` answer the scrapes, as the documentation of
    ``prometheus_client`` shows.
-   With gunicorn, call ``mark_process_dead(worker.pid)`` in the hook ``child_exit``.

Then a scrape of any worker gives the sums over all workers. Counters include those of workers
that have ended. Gauges are those of the workers that live; the longest waits are the
maximum of theirs, and ``mcpool_up`` tells of the last command of all.

Each process writes its figures into the directory once a second, from its first command on, and
when it ends. So a scrape may be a second late, and a worker that is killed with ``SIGKILL`` takes
the counts of its last second with it.
"""

try:
    import prometheus_client as _  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.metrics needs prometheus_client: pip install 'mcpool-wsgi[metrics]'"
    ) from _error

from .collector import PoolCollector as PoolCollector
from .families import POOL_NAME as POOL_NAME
