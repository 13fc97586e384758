"""
Status page
===========

:class:`StatusApp` is a WSGI app that shows what the pools of a process do: slots that are idle
and in use, who holds them and for how long, the queue, commands, hit rate and waits of the last
five minutes, and what each memcached says about itself.

Mount it beside your app, and outside of the middleware:

.. code-block:: python

    from mcpool_wsgi.status import StatusApp
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = MemcachedPoolMiddleware(app, pool)
    app = DispatcherMiddleware(app, {"/-/memcached": StatusApp(pool)})

``/-/memcached`` is the page, and ``/-/memcached?format=json`` is the same as JSON. All other
paths below it are a ``404``.

**Access control is your task.** The app answers everybody who reaches it. It changes nothing, and
it shows no keys and no values. But it shows addresses of servers, paths of requests, and files
and lines of your code.

The app never reserves a client, so it works while all slots are in use. It asks all memcacheds at
the same time, on new connections and for one second at most, so it works while memcached is down.
However many people look, it collects its figures once per second.

It shows the pools of one process: the one that answers. Each worker process has pools of its own.
With ``?process=PID`` all other processes answer ``204`` and no content. With ``?process=PID@HOST``
those of other machines do, too: in containers, many processes have the same ID. The page uses this
to stay with one process.

If all threads of the server wait for a client, none is left to serve the page. Then a server of
its own helps. It listens on this machine only, and each worker process has an address of its own:

.. code-block:: python

    import threading
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, StatusApp(pool), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"pools of this process: http://127.0.0.1:{server.port}/")

A forked child has none of its parent's threads. So if your server loads the app and then forks, as
gunicorn does with ``--preload``, start this server after the fork: in gunicorn's hook
``post_fork``, for example.

The page works without JavaScript. With JavaScript it refreshes itself every two seconds, and
without it every ten.

It costs each command some two microseconds, because it counts them. A look at the page takes a few
milliseconds. In a program with millions of objects it takes up to a tenth of a second, because it
searches for the requests that have the clients. No other thread runs meanwhile.

JSON
----

===========  ==================================================================================
``process``  the process ID
``host``     the name of the machine
``time``     when the figures were collected, in UTC
``pools``    a list: ``name``, ``kind``, ``timeout``, ``states``, ``stats``
             (:class:`~mcpool_wsgi.PoolStats`), ``holders`` (a list of
             :class:`~mcpool_wsgi.Holder`) and ``history`` of each pool
``servers``  a list: ``address``, ``pools``, ``error``, ``version``, ``items``, ``bytes``,
             ``max_bytes``, ``evictions``, ``hits``, ``misses``, ``hit_rate``,
             ``connections`` and ``uptime`` of each memcached; what is not known is ``null``
===========  ==================================================================================

``states`` of a pool names what is remarkable:

============  =================================================================================
``timeouts``  reservations timed out in the last minute
``failures``  commands failed in the last minute because of memcached
``closed``    ``close()`` was called
``empty``     the pool has no slots until ``fill()``
``waiting``   threads wait for a slot
``full``      all slots are in use
============  =================================================================================

``history`` of a pool has ``steps``, a list for each figure with a number for each
``step_seconds``, the newest last; their sums in ``total`` and in ``last_minute``; and
``commands_per_second`` of the last seconds. The figures are ``commands``, ``failures`` (because of
memcached), ``errors`` (wrong arguments), ``hits``, ``misses``, ``seconds`` (of all commands
together), ``waits`` and ``timeouts``.
"""

from .app import StatusApp as StatusApp
