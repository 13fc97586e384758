"""
Native
======

The commands of pylibmc's C code. Each is a function whose first argument is a client. Monitoring
agents replace methods of the Python classes above the C code, and never these functions.

The door and the listeners know a command by its ``__name__``. So a function that stands for one of
these has the same.
"""

from __future__ import annotations

from typing import Any, Callable

from _pylibmc import client

Command = Callable[..., Any]

get: Command = client.get
gets: Command = client.gets
get_multi: Command = client.get_multi
set: Command = client.set
add: Command = client.add
replace: Command = client.replace
append: Command = client.append
prepend: Command = client.prepend
cas: Command = client.cas
set_multi: Command = client.set_multi
add_multi: Command = client.add_multi
incr: Command = client.incr
decr: Command = client.decr
touch: Command = client.touch
delete: Command = client.delete
flush_all: Command = client.flush_all
get_stats: Command = client.get_stats
disconnect_all: Command = client.disconnect_all
set_behaviors: Command = client.set_behaviors
hash: Command = client.hash
serialize: Command = client.serialize
deserialize: Command = client.deserialize
