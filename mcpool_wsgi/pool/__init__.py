"""
Who has which client: the two pools, the reservation, the slots and their queue, generations of
clients, holders, outages, and statistics.

The pools:

-   ``pool``: what both have in common.
-   ``client_pool``, ``thread_mapped_pool``: the two pools.
-   ``arguments``: what they refuse.

A reservation:

-   ``reservation``: how it gets a slot and releases it.
-   ``lent_client``: the reservation that is the client, too, and the lazy one.
-   ``lent_subclass``: the same for clients of a subclass.
-   ``observed``: the reservation that tells listeners.
-   ``request_client``: which client the running request has.

The slots:

-   ``slot_queue``: the idle slots and the waiters. It has the argument.
-   ``slots``, ``generations``: what a slot is, and what its client is made from.

What is told of a pool:

-   ``statistics``: the counts.
-   ``by_name``: the pools that the metrics and the status page are given.
-   ``holders``: who has the clients.
-   ``greenlets``: whether a thread has more than one.
-   ``timeouts``, ``outages``: the lines in the log, and the text of a time-out.
"""

from .arguments import checked_n_slots as checked_n_slots
from .by_name import pools_by_name as pools_by_name
from .client_pool import ClientPool as ClientPool
from .holders import Holder as Holder
from .lent_client import LazyClient as LazyClient
from .lent_client import LentClient as LentClient
from .pool import Pool as Pool
from .request_client import in_request as in_request
from .request_client import request_client as request_client
from .reservation import Reservation as Reservation
from .slots import HasReservations as HasReservations
from .statistics import PoolStats as PoolStats
from .thread_mapped_pool import ThreadMappedPool as ThreadMappedPool
