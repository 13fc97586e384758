"""
Who has which client: the two pools, the reservation, the slots and their queue, generations of
clients, holders, outages, and statistics.
"""

from .arguments import checked_n_slots as checked_n_slots
from .client_pool import ClientPool as ClientPool
from .holders import Holder as Holder
from .lent_client import LazyClient as LazyClient
from .lent_client import LentClient as LentClient
from .pool import Pool as Pool
from .request_client import in_request as in_request
from .request_client import request_client as request_client
from .reservation import Reservation as Reservation
from .statistics import PoolStats as PoolStats
from .thread_mapped_pool import ThreadMappedPool as ThreadMappedPool
