"""Client: the commands and their parameters are pylibmc's."""

from __future__ import annotations

import contextlib
import inspect
from inspect import Parameter
from typing import Any

import pylibmc
import pytest
from hostile import fake, silent

from mcpool_wsgi import Client, ClientPool, PickleForbidden
from mcpool_wsgi.devserver import Memcached

KEYWORD_ONLY = Parameter.KEYWORD_ONLY


def test_subclass_with_a_hash_of_its_own_stores_in_binary(real_memcached: Memcached) -> None:
    class Hashed(Client):
        def hash(self, key: str | bytes) -> int:
            return 2**31

    binary = Hashed([real_memcached.address], binary=True)
    assert binary.add("key", "value")
    assert binary.add("key", "other") is False
    assert binary.add_multi({"key": "other"}) == ["key"]


def test_client_for_other_servers_has_the_options_of_this_one() -> None:
    mc = Client(["127.0.0.1:1"], {"connect_timeout": 300}, fail_soft=True)
    other = mc.with_servers(["127.0.0.1:2"])
    assert other.behaviors["connect_timeout"] == 300
    assert other.get("key") is None


def test_client_for_other_servers_tells_of_its_failures_as_this_one() -> None:
    failures: list[str] = []
    mc = Client(["127.0.0.1:1"], fail_soft=True)
    mc.on_connection_failure = lambda: failures.append("failed")
    assert mc.with_servers(["127.0.0.1:2"]).get("key") is None
    assert failures == ["failed"]


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_subclass_with_parameters_of_its_own_gets_other_servers(
    allow_pickle: bool, address: str
) -> None:
    class Named(Client):
        def __init__(self, name: str) -> None:
            super().__init__(["127.0.0.1:1"], {"namespace": name}, allow_pickle=allow_pickle)

        def name(self) -> Any:
            return self._chosen["namespace"]

    with ClientPool(Named("app:"), 1) as pool:
        pool.set_servers([address])  # as a discovery does
        with pool.reserve() as mc:
            assert mc.set("key", "value")
            assert getattr(mc, "name")() == b"app:"  # noqa: B009
    with pytest.raises(PickleForbidden) if not allow_pickle else contextlib.nullcontext():
        pool.master.serialize([])
    assert Client([address]).get("app:key") == "value"


def test_client_for_other_servers_may_have_a_time_of_its_own() -> None:
    with fake(silent) as server:
        mc = Client(["127.0.0.1:1"], command_timeout=60)
        with pytest.raises(pylibmc.Error, match=r"command_timeout, 0\.25 s"):
            mc.with_servers([server.address], command_timeout=0.25).get("key")


LONG = "b" * 100


@pytest.mark.parametrize(("extend", "extended"), [("append", "a" + LONG), ("prepend", LONG + "a")])
def test_appended_text_is_not_compressed(mc: Client, extend: str, extended: str) -> None:
    assert mc.set("text", "a")
    assert getattr(mc, extend)("text", LONG, min_compress_len=10, compress_level=9)
    assert mc.get("text") == extended
    with pytest.raises(ValueError, match="min_compress_len must be"):
        getattr(mc, extend)("text", "b", min_compress_len=-1)


def test_compression_of_no_values_stores_nothing(mc: Client) -> None:
    assert mc.set_multi({}, min_compress_len=10) == []
    assert mc.add_multi({}, compress_level=9) == []


def test_cas_of_a_missing_key_is_an_error_in_the_binary_protocol(
    real_memcached: Memcached,
) -> None:
    mc = Client([real_memcached.address], {"cas": True}, binary=True)
    with pytest.raises(pylibmc.NotFound):
        mc.cas("missing", "value", 1)


def test_replace_of_a_missing_key_is_false_in_the_binary_protocol(
    real_memcached: Memcached,
) -> None:
    mc = Client([real_memcached.address], binary=True)
    for value in ("text", 5):
        assert mc.replace("missing", value) is False
    assert mc.set("key", "old")
    assert mc.replace("key", "new") is True
    assert mc.get("key") == "new"


def test_all_else_is_as_with_pylibmc(mc: Client, cas_mc: Client) -> None:
    assert mc.set("key", {"any": ["value", 1, None]}, 100)
    assert mc.get("key") == mc["key"] == {"any": ["value", 1, None]}
    assert mc.get("missing") is None
    assert mc.get("missing", "default") == mc.get("missing", default="default") == "default"
    assert "key" in mc
    assert "missing" not in mc
    mc["other"] = "value" * 100
    assert mc.set("compressed", "value" * 100, min_compress_len=10, compress_level=9)
    assert mc["compressed"] == mc["other"]
    del mc["other"]
    with pytest.raises(KeyError):
        mc["other"]
    assert mc.add("key", 1) is False
    assert mc.replace("missing", 1) is False
    assert mc.set("text", "b")
    assert mc.append("text", "c")
    assert mc.prepend("text", "a")
    assert mc.get("text") == "abc"
    assert mc.set("count", 5)
    assert (mc.incr("count"), mc.incr("count", 4), mc.decr("count", 3)) == (6, 10, 7)
    mc.incr_multi(["count"], delta=3)
    assert mc.get("count") == 10
    assert mc.touch("count", 100) is True
    assert mc.touch("missing", 100) is False
    assert mc.delete("count") is True
    assert mc.delete("count") is False
    assert mc.add_multi({"text": 1, "new": 2}) == ["text"]
    value, cas = cas_mc.gets("new")
    assert value == 2
    assert cas_mc.cas("new", 3, cas) is True
    assert cas_mc.cas("new", 4, cas) is False
    assert cas_mc.gets("missing") == (None, None)
    assert mc.flush_all() is True
    assert mc.get("text") is None
    mc.behaviors = {"ketama": True}
    assert mc.behaviors["ketama"] == 1
    with pytest.raises(ValueError, match="delta"):
        mc.incr("count", -1)
    assert repr(mc.clone()) == repr(mc)


def test_signatures_are_pylibmcs() -> None:
    parameters = inspect.signature(Client.__init__).parameters
    theirs = inspect.signature(pylibmc.Client.__init__).parameters
    positional = [name for name in parameters if parameters[name].kind is not KEYWORD_ONLY]
    assert positional == list(theirs)


def test_own_serialization_is_used(address: str) -> None:
    class Json(Client):
        def serialize(self, value: Any) -> tuple[bytes, int]:
            return repr(value).encode(), 1 << 20

        def deserialize(self, data: bytes, flags: int) -> Any:
            if flags != 1 << 20:
                raise pylibmc.CacheMiss
            return ("read", data)

    mc = Json([address])
    for client in (mc, mc.clone()):
        assert client.set("key", [1])
        assert client.get("key") == ("read", b"[1]")


def test_defaults_are_pylibmcs(mc: Client) -> None:
    for name in ("set", "add", "replace", "append", "prepend", "decr", "incr", "add_multi"):
        ours = inspect.signature(getattr(Client, name)).parameters
        defaults = {key: one.default for key, one in ours.items()}
        assert defaults.get("delta", 1) == 1
        assert defaults.get("time", 0) == 0
        assert defaults.get("min_compress_len", 0) == 0
        assert defaults.get("compress_level", -1) == -1
    mc.set("count", 5)
    assert (mc.decr("count"), mc.incr("count")) == (4, 5)
    assert mc.add_multi({"new": 1}) == []
    assert mc.get("new") == 1
