"""
OpenTelemetry
=============

Traces and metrics of a pool, with the names of OpenTelemetry's semantic conventions. It needs
``opentelemetry-api``; ``pip install 'mcpool-wsgi[opentelemetry]'`` installs it.

.. code-block:: python

    from mcpool_wsgi.opentelemetry import instrument

    uninstrument = instrument(pool)

Each command is a span, and a child of the current span. The current span is that of the request
if ``opentelemetry-instrumentation-wsgi`` or the one for a framework is in use. ``incr_multi`` and
``delete_multi`` send one command for each key, so each of their keys is a span. With several
servers, ``flush_all`` and ``get_stats`` are a span for each server.

=============================  ================================================================
attribute                      value
=============================  ================================================================
``db.system.name``             ``memcached``
``db.operation.name``          the command, for example ``get``. ``set_multi`` with several
                               keys is ``BATCH set``, and ``add_multi`` is ``BATCH add``
``db.operation.batch.size``    the number of keys of such a batch. A ``get_multi`` is no batch:
                               it is one command with several keys
``server.address``             the server, if the client has only one. pylibmc does not say
                               which one of several servers it has asked
``server.port``                its port. A Unix socket has none
``error.type``                 ``timeout``, or the class of the exception. A miss is no error.
                               With ``fail_soft`` an outage is an error, too
``mcpool.outcome``             ``hit``, ``miss``, ``stored``, ``not stored``, ``done``,
                               ``failure`` or ``error``: see :class:`~mcpool_wsgi.CommandEvent`
``mcpool.keys``                the number of keys of a ``get_multi``
``mcpool.hits``                how many of them were found
``db.query.text``              the command and its keys, only with ``capture_keys=True``
=============================  ================================================================

In the metrics a connection is a client.

==========================================  ===================================================
metric                                      what it is
==========================================  ===================================================
``db.client.operation.duration``            seconds of each command; its attributes are those
                                            above, up to ``mcpool.outcome`` and without the
                                            batch size
``db.client.connection.count``              clients; ``db.client.connection.state`` is ``idle``
                                            or ``used``
``db.client.connection.max``                the most clients of a ``ClientPool``
``db.client.connection.pending_requests``   threads that wait for a client
``db.client.connection.timeouts``           reservations that timed out
``db.client.connection.wait_time``          seconds that each reservation waited, with those
                                            that timed out
``db.client.connection.use_time``           seconds from each reservation to its release
==========================================  ===================================================

``db.client.connection.pool.name`` is the name of the pool. There is no ``create_time``, because
libmemcached opens a connection inside the first command.

If instrumentation is suppressed (``opentelemetry.instrumentation.utils``), commands are no spans,
and neither commands nor reservations are in a histogram.
"""

try:
    from .instrumentation import instrument as instrument
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ImportError(
        "mcpool_wsgi.opentelemetry needs opentelemetry-api:"
        " pip install 'mcpool-wsgi[opentelemetry]'"
    ) from _error
