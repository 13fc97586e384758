"""
The middleware and what it returns: the whole WSGI part.

A request takes this road:

-   ``middleware``: reserves a client, calls the app, and ends the request.
-   ``arguments``: what the middleware refuses when it is made.
-   ``third_party``: reservations of other people's pools.
-   ``environ_keys``, ``early_release``: what a request puts into the environ, and how it leaves
    it.
-   ``response``, ``files``: what the server gets, and closes.

The code of the app is run by these, one around the other:

-   ``request``: tells each PooledClient which client the request has.
-   ``exhaustion``: answers if a lazy request finds no client.
-   ``server_timing``: adds the header.
-   ``chunks``: runs the code of a response for them.

Beside the requests:

-   ``slow``: the thread of ``slow_after``.
"""

from .middleware import MemcachedPoolMiddleware as MemcachedPoolMiddleware
from .middleware import get_client as get_client
