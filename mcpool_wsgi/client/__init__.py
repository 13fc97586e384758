"""
One connection to memcached: the commands, the keys, the door that all commands pass, what an
error means, and the defaults.
"""

from .arguments import LARGEST_TIME as LARGEST_TIME
from .arguments import NOWHERE as NOWHERE
from .arguments import checked_seconds as checked_seconds
from .arguments import checked_switch as checked_switch
from .behaviors import DEFAULT_BEHAVIORS as DEFAULT_BEHAVIORS
from .behaviors import SEVERAL_SERVERS_BEHAVIORS as SEVERAL_SERVERS_BEHAVIORS
from .borrowed import BorrowedCommands as BorrowedCommands
from .client import Client as Client
from .discarding import discard as discard
from .events import CommandEvent as CommandEvent
from .events import Listener as Listener
from .events import observe as observe
from .failures import is_of_signal_handler as is_of_signal_handler
from .failures import is_timeout as is_timeout
from .failures import without_key as without_key
from .keys import AnyKey as AnyKey
from .keys import Key as Key
from .opened_here import opened_here as opened_here
