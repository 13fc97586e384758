"""
One connection to memcached: the commands, the keys, the door that all commands pass, what an
error means, and the defaults.

A :class:`~mcpool_wsgi.Client` is made of a class for each kind of command:

-   ``key_commands``: those of one key that store nothing.
-   ``storing_commands``: those that store the value of one key.
-   ``multi_commands``: those of many keys.
-   ``server_commands``: those of no key.
-   ``client``: all of them in one class, and its options.

These classes have one base. It is made of these, and each inherits from the next:

-   ``behavior_commands``: the behaviors, of clones too.
-   ``connection``, ``turns``: the door, and how commands wait before it.
-   ``availability``, ``circuit_breaker``: what follows a failure of memcached.

Arguments and values:

-   ``arguments``, ``behaviors``, ``keys``: what is refused, and the defaults.
-   ``values``, ``without_pickle``: how values are written and read.

Errors:

-   ``failures``, ``explanations``: what an error means, and what its text says.
-   ``silent_errors``: errors that pylibmc does not raise.
-   ``run_again``, ``whole_answers``: reads and commands that are sent a second time.
-   ``binary_protocol``, ``login``: errors of the binary protocol and of SASL.
-   ``watchdog``: the time limit.

The C code and its sockets:

-   ``native``, ``libmemcached``: the functions of pylibmc and of libmemcached.
-   ``sockets``: which sockets a client has open, and how they are ended.
-   ``opened_here``, ``discarding``: which clients a child must close, and how a client is freed.

For the rooms above:

-   ``borrowed``: the commands for objects that have no connection of their own.
-   ``events``: what listeners are told of commands.
"""

from .arguments import LARGEST_DELTA as LARGEST_DELTA
from .arguments import LARGEST_LENGTH as LARGEST_LENGTH
from .arguments import LARGEST_TIME as LARGEST_TIME
from .arguments import NOWHERE as NOWHERE
from .arguments import checked_number as checked_number
from .arguments import checked_seconds as checked_seconds
from .arguments import checked_switch as checked_switch
from .behaviors import DEFAULT_BEHAVIORS as DEFAULT_BEHAVIORS
from .behaviors import SEVERAL_SERVERS_BEHAVIORS as SEVERAL_SERVERS_BEHAVIORS
from .borrowed import BorrowedCommands as BorrowedCommands
from .circuit_breaker import CircuitBreaker as CircuitBreaker
from .client import Client as Client
from .client import ClientOptions as ClientOptions
from .discarding import discard as discard
from .events import CommandEvent as CommandEvent
from .events import Listener as Listener
from .events import observe as observe
from .failures import ServerResting as ServerResting
from .failures import is_of_signal_handler as is_of_signal_handler
from .failures import is_timeout as is_timeout
from .failures import without_key as without_key
from .keys import AnyKey as AnyKey
from .keys import Key as Key
from .opened_here import opened_here as opened_here
from .watchdog import original_thread_function as original_thread_function
from .without_pickle import Serializer as Serializer
