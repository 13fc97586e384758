"""Every command that takes keys, with the rest of its arguments."""

from __future__ import annotations

from typing import Any, Callable

ONE_KEY: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda mc, key: mc.get(key),
    "gets": lambda mc, key: mc.gets(key),
    "set": lambda mc, key: mc.set(key, 1),
    "add": lambda mc, key: mc.add(key, 1),
    "replace": lambda mc, key: mc.replace(key, 1),
    "append": lambda mc, key: mc.append(key, "1"),
    "prepend": lambda mc, key: mc.prepend(key, "1"),
    "cas": lambda mc, key: mc.cas(key, 1, 1),
    "incr": lambda mc, key: mc.incr(key),
    "decr": lambda mc, key: mc.decr(key),
    "touch": lambda mc, key: mc.touch(key, 10),
    "delete": lambda mc, key: mc.delete(key),
    "__getitem__": lambda mc, key: mc[key],
    "__setitem__": lambda mc, key: mc.__setitem__(key, 1),
    "__delitem__": lambda mc, key: mc.__delitem__(key),
    "__contains__": lambda mc, key: key in mc,
}
#: Those that take several keys, and a prefix.
MANY_KEYS: dict[str, Callable[..., Any]] = {
    "get_multi": lambda mc, key, **prefix: mc.get_multi(["ok", key], **prefix),
    "set_multi": lambda mc, key, **prefix: mc.set_multi({"ok": 1, key: 1}, **prefix),
    "add_multi": lambda mc, key, **prefix: mc.add_multi({"ok": 1, key: 1}, **prefix),
    "incr_multi": lambda mc, key, **prefix: mc.incr_multi(["ok", key], **prefix),
    "delete_multi": lambda mc, key, **prefix: mc.delete_multi(["ok", key], **prefix),
}
