"""Configuration from environment variables, URLs, and .ini files that PasteDeploy loads."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
import socketserver
import threading
from pathlib import Path
from typing import Any

import dns.rcode
import pylibmc
import pytest
from harness import eventually
from nameserver import Nameserver
from paste.deploy import loadapp, loadfilter
from webtest import TestApp

from mcpool_wsgi import (
    Client,
    ClientPool,
    MemcachedPoolMiddleware,
    PickleForbidden,
    PooledClient,
    ThreadMappedPool,
)
from mcpool_wsgi.config import (
    SERVICES,
    client_from_environ,
    client_from_url,
    clients,
    environment,
    filter_app_factory,
    filter_factory,
    paste,
    pool_from_environ,
    pool_from_url,
    urls,
)
from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.discovery import Discovery


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pools that the configuration makes."""
    made: list[Any] = []

    def recorded(kind: Any) -> Any:
        def make(*args: Any, **options: Any) -> Any:
            made.append(kind(*args, **options))
            return made[-1]

        return make

    for module in (environment, paste, urls):
        monkeypatch.setattr(module, "ClientPool", recorded(ClientPool))
    monkeypatch.setattr(paste, "ThreadMappedPool", recorded(ThreadMappedPool))
    return made


# -- The environment


@pytest.mark.parametrize("separator", [",", ";", " ", ", ", "\n"])
def test_servers_from_the_environment(separator: str) -> None:
    servers = ["127.0.0.1", "cache:11212", "[::1]:11213", "cache:11211:3"]
    client = client_from_environ({"MEMCACHED_SERVERS": separator.join(servers)})
    assert client.addresses == servers
    assert not client.binary


def test_client_from_the_environment_works(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCACHED_SERVERS", f" {address} ")
    client = client_from_environ(behaviors={"connect_timeout": 321}, fail_soft=True)
    assert client.set("key", "value")
    assert client.get("key") == "value"
    assert client.behaviors["connect_timeout"] == 321


def test_options_of_the_client_are_arguments(address: str) -> None:
    quiet = {"MEMCACHED_SERVERS": "127.0.0.1:1"}
    assert client_from_environ(quiet, fail_soft=True).get("key", "default") == "default"
    environ = {"MEMCACHED_SERVERS": address}
    with pytest.raises(PickleForbidden):
        client_from_environ(environ, allow_pickle=False).set("key", {"not": "text"})
    with pytest.raises(ValueError, match="command_timeout"):
        client_from_environ(environ, command_timeout=-1)


@pytest.mark.parametrize("serializer", [None, json])
def test_serializer_is_an_argument(address: str, serializer: Any) -> None:
    environ, url = {"MEMCACHED_SERVERS": address}, f"memcached://{address}/?allow_pickle=false"
    options = {"allow_pickle": False, "serializer": serializer}
    clients = [
        client_from_environ(environ, **options),
        client_from_url(url, serializer=serializer),
    ]
    one = pool_from_environ(1, environ, **options)
    other = pool_from_url(url, 1, serializer=serializer)
    with one, other:
        for client in [*clients, PooledClient(one), PooledClient(other)]:
            if serializer is None:
                with pytest.raises(PickleForbidden):
                    client.set("key", {"not": "text"})
            else:
                assert client.set("key", {"not": "text"})
                assert client.get("key") == {"not": "text"}


@pytest.mark.parametrize("name", ["fail_soft", "command_timeout", "allow_pickle", "serializer"])
@pytest.mark.parametrize("function", [client_from_environ, pool_from_environ])
def test_defaults_are_those_of_the_client(name: str, function: Any) -> None:
    theirs = inspect.signature(Client).parameters[name].default
    assert inspect.signature(function).parameters[name].default == theirs


@pytest.mark.parametrize("function", [pool_from_environ, pool_from_url])
def test_default_timeout_is_that_of_the_pool(function: Any) -> None:
    theirs = inspect.signature(ClientPool).parameters["timeout"].default
    assert inspect.signature(function).parameters["timeout"].default == theirs


@pytest.mark.parametrize("environ", [{}, {"MEMCACHED_SERVERS": ""}, {"MEMCACHIER_USERNAME": "u"}])
def test_environment_without_servers_is_refused(environ: Any) -> None:
    with pytest.raises(
        ValueError, match="MEMCACHED_SERVERS, MEMCACHIER_SERVERS, MEMCACHEDCLOUD_SERVERS"
    ):
        client_from_environ(environ)


def test_first_service_with_servers_counts() -> None:
    environ = {f"{service}_SERVERS": service.lower() for service in reversed(SERVICES)}
    for service in SERVICES:
        assert client_from_environ(environ).addresses == [service.lower()]
        environ[f"{service}_SERVERS"] = ""


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("given", "missing"), ["UP", "PU"])
def test_half_of_the_credentials_is_refused(service: str, given: str, missing: str) -> None:
    names = {"U": f"{service}_USERNAME", "P": f"{service}_PASSWORD"}
    environ = {f"{service}_SERVERS": "cache", names[given]: "secret"}
    with pytest.raises(ValueError, match=f"^{names[given]} is set and {names[missing]} is not$"):
        client_from_environ(environ)


@pytest.mark.parametrize(
    "servers",
    [
        *("cache:port", "cache:70000", "cache:65536", "cache:0", "[::1]:0", "cache:"),
        *(",;", ":11211", "http://cache", "cache cache:1 cache:0"),
    ],
)
def test_servers_that_do_not_parse_are_refused(servers: str) -> None:
    error = rf"^MEMCACHED_SERVERS must be servers like .*, not {re.escape(repr(servers))}$"
    with pytest.raises(ValueError, match=error):
        client_from_environ({"MEMCACHED_SERVERS": servers})


@pytest.mark.parametrize("environ", ["memcached://me:secret@cache", None, ["cache"]])
def test_environment_that_is_no_mapping_is_refused_and_not_shown(environ: Any) -> None:
    error = f"^environ must be a mapping like os.environ, not {type(environ).__name__}$"
    for function in (client_from_environ, functools.partial(pool_from_environ, 1)):
        with pytest.raises(TypeError, match=error):
            function(environ)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 12}, "size must be a str, not int"),
        ({"size": "12", "lazy": True}, "lazy must be a str, not bool"),
        ({"size": "12", "servers": ["secret"]}, "servers must be a str, not list"),
    ],
)
def test_option_that_is_no_text_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=f"^{error}$"):
        filter_factory({}, **{"servers": "127.0.0.1:1", **options})


def test_servers_with_a_host_and_sockets_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="must be either all with a host or all paths of sockets"):
        client_from_environ({"MEMCACHED_SERVERS": "10.0.1.1 /run/memcached.sock"})


@pytest.mark.parametrize("server", ["cache:1", "cache:65535", "/run/memcached.sock"])
def test_first_and_last_port_and_a_path_are_servers(server: str) -> None:
    assert client_from_environ({"MEMCACHED_SERVERS": server}).addresses == [server]


def test_possible_password_is_not_shown() -> None:
    with pytest.raises(ValueError, match="a text that may contain a password") as caught:
        client_from_environ({"MEMCACHED_SERVERS": "memcached://me:secret@cache"})
    assert "secret" not in str(caught.value)


# -- Credentials


class Introduction(socketserver.StreamRequestHandler):
    """Notes the first bytes of a client and closes the connection."""

    def handle(self) -> None:
        self.server.heard.append(self.rfile.read(2))  # type: ignore[attr-defined]


ASKS_FOR_SASL = b"\x80\x20"  # "list mechanisms" in the binary protocol


def authenticates_with(client: Client, username: str, password: str) -> bool:
    """Whether *client* has these credentials. It must begin a connection with SASL."""
    with socketserver.TCPServer(("127.0.0.1", 0), Introduction) as server:
        server.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with contextlib.suppress(pylibmc.Error):
            client = client.clone().with_servers([f"127.0.0.1:{server.server_address[1]}"])
            client.get("key")
        thread.join(10)
        assert server.heard == [ASKS_FOR_SASL]  # type: ignore[attr-defined]
    return client._credentials == (username, password)


@pytest.mark.parametrize("service", SERVICES)
def test_credentials_from_the_environment(service: str) -> None:
    client = client_from_environ(
        {
            f"{service}_SERVERS": "cache",
            f"{service}_USERNAME": "me",
            f"{service}_PASSWORD": "p@ss: w%rd ",
        }
    )
    assert client.binary
    assert authenticates_with(client, "me", "p@ss: w%rd ")


def test_credentials_from_a_url() -> None:
    client = client_from_url("memcached://me:p%40ss%3A%20w%25rd%20@cache")
    assert client.binary
    assert authenticates_with(client, "me", "p@ss: w%rd ")


def test_credentials_from_paste(pools: list[Any], tmp_path: Path) -> None:
    load(tmp_path, "servers = cache\nsize = 1\nusername = me\npassword = 100%% Secret")
    with pools[0].reserve() as client:
        assert client.binary
        assert authenticates_with(client, "me", "100% Secret")


def test_credentials_without_the_binary_protocol_are_refused() -> None:
    with pytest.raises(ValueError, match="binary is false"):
        client_from_url("memcached://me:secret@cache?binary=no")


# -- A URL


def test_url_with_several_servers_and_behaviors() -> None:
    client = client_from_url(
        "memcached://127.0.0.1,cache:11212,[::1]:11213/?ketama=false&connect_timeout=300"
        "&hash=md5&distribution=consistent+ketama&binary=true&pickle_protocol=0"
    )
    assert client.addresses == ["127.0.0.1", "cache:11212", "[::1]:11213"]
    assert client.binary
    behaviors = client.behaviors
    assert (behaviors["connect_timeout"], behaviors["hash"]) == (300, "md5")
    assert behaviors["pickle_protocol"] == 0


def test_url_without_options_leaves_the_defaults() -> None:
    assert client_from_url("memcached://cache").behaviors == Client(["cache"]).behaviors


def test_url_has_options_of_the_client(address: str) -> None:
    client = client_from_url(f"memcached://{address}/?command_timeout=.5&allow_pickle=false")
    with pytest.raises(PickleForbidden):
        client.set("key", {"not": "text"})


def test_url_may_switch_off_what_is_refused(address: str) -> None:
    mc = client_from_url(f"memcached://{address}/?buffer_requests=false&_noreply=off")
    assert mc.set("key", "value")


def test_client_from_a_url_works(address: str) -> None:
    client = client_from_url(f"memcached://{address}/?namespace=site:&fail_soft=yes")
    assert client.set("key", "value")
    assert Client([address]).get("site:key") == "value"


@pytest.mark.servers
def test_url_of_a_unix_socket(embedded: bool, tmp_path: Path) -> None:
    with memcached(embedded=embedded, unix_socket=str(tmp_path / "a, socket")) as server:
        client = client_from_url(f"memcached://{tmp_path}/a%2C%20socket?tcp_nodelay=0")
        assert client.addresses == [server.address]
        assert client.set("key", "value")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:11211",
        "http://me:secret@cache",
        "memcached://",
        "memcached:///",
        "memcached://me@cache",
        "memcached://me:sec/ret@cache",
        "memcached://me:sec?ret@cache",
        "memcached://me:sec@ret@cache",
        "memcached://cache/database",
        "memcached://cache/#secret",
    ],
)
def test_other_urls_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="the URL of a memcached must be like") as caught:
        client_from_url(url)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("url", [None, b"memcached://me:secret@cache"])
def test_url_that_is_no_text_is_refused_and_not_shown(url: Any) -> None:
    """None is what os.environ.get() returns for a variable that is not set."""
    error = rf"^the URL of a memcached is a str like .*, not {type(url).__name__}$"
    for function in (client_from_url, functools.partial(pool_from_url, n_slots=1)):
        with pytest.raises(TypeError, match=error):
            function(url)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("memcached://secret%FF:x@cache", "username"),
        ("memcached://me:100%de-secret@cache", "password"),
        ("memcached://me:secret%ED%A0%80@cache", "password"),
        ("memcached:///run/secret%FF.sock", "path"),
    ],
)
def test_parts_of_a_url_that_are_no_utf_8_are_refused_and_not_shown(url: str, what: str) -> None:
    error = f"^the {what} in a URL must be percent-encoded UTF-8; write %25 for a %$"
    with pytest.raises(ValueError, match=error) as caught:
        client_from_url(url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("ketma=true", "^unknown option 'ketma'; the options are .*ketama,"),
        ("ketama=perhaps", "^ketama must be true or false, not 'perhaps'$"),
        ("connect_timeout=true", "^connect_timeout must be an integer .*, not 'true'$"),
        ("connect_timeout=", "^connect_timeout must be an integer .*, not ''$"),
        ("connect_timeout=-1", "^connect_timeout must be an integer .*, not '-1'$"),
        ("connect_timeout=9999999999", "up to nine digits, not '9999999999'$"),
        ("hash=sha1", "^hash must be one of .*md5.*, not 'sha1'$"),
        ("distribution=fair", "^distribution must be one of .*consistent.*, not 'fair'$"),
        ("fail_soft=maybe", "^fail_soft must be true or false, not 'maybe'$"),
        ("allow_pickle=maybe", "^allow_pickle must be true or false, not 'maybe'$"),
        ("command_timeout=soon", "^command_timeout must be a positive number of seconds, not"),
        ("command_timeout=0", "^command_timeout must be a positive number of seconds, not"),
        ("command_timeout=0.0", "^command_timeout must be a positive number of seconds, not"),
        ("command_timeout=-1", "^command_timeout must be a positive number of seconds, not"),
        ("servers=other", "^unknown option 'servers'"),
        ("lazy=true", "^unknown option 'lazy'"),
        ("hash=hsieh", "^libmemcached refuses an option: .*hash"),
        ("namespace=a%20b", "^behavior namespace must be ASCII without spaces .*, not 'a b'$"),
        (f"namespace={300 * 'n'}", "^behavior namespace must be 1 to 127 bytes long, not 300"),
        ("namespace=%C3%BC", "^behavior namespace must be ASCII .*, not 'ü'$"),
        ("namespace=", "^behavior namespace must be 1 to 127 bytes long, not 0"),
        ("buffer_requests=true", "^behavior buffer_requests must be 0, not True: "),
        ("_noreply=on", "^behavior _noreply must be 0, not True: "),
        ("num_replicas=1", "^behavior num_replicas must be 0, not 1: "),
        ("fail_soft=ye%C5%BF", "^fail_soft must be true or false, not 'ye\u017f'$"),
        ("ketama=on&ketama=off", "^ketama is given twice$"),
        ("fail_soft=off&ketama=on&fail_soft=off", "^fail_soft is given twice$"),
        ("namespace=%FF", "^the query in a URL must be percent-encoded UTF-8; write"),
        ("pickle_protocol=99", "^pickle_protocol must be 0 to [5-9], not '99'$"),
    ],
)
def test_wrong_options_of_a_url_are_refused(query: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        client_from_url(f"memcached://cache/?{query}")


# -- PasteDeploy


def make_app(global_conf: dict[str, str], key: str = "mc.client") -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        client = environ[key]
        client.set("greeting", "hello")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{client.get('greeting')} {client.behaviors['connect_timeout']}".encode()]

    return app


def load(
    directory: Path, options: str, use: str = "egg:mcpool-wsgi", key: str = "mc.client"
) -> Any:
    file = directory / "production.ini"
    file.write_text(
        f"""
[DEFAULT]
debug = false

[filter:memcached]
use = {use}
{options}

[app:app]
paste.app_factory = test_config:make_app
key = {key}

[pipeline:main]
pipeline = memcached app
"""
    )
    return loadapp(f"config:{file}")


@pytest.mark.parametrize(
    "use", ["egg:mcpool-wsgi", "egg:mcpool-wsgi#main", "call:mcpool_wsgi.config:filter_factory"]
)
def test_paste_loads_the_filter(address: str, pools: list[Any], tmp_path: Path, use: str) -> None:
    app = load(tmp_path, f"servers = {address}\nsize = 3", use)
    assert isinstance(app, MemcachedPoolMiddleware)
    assert TestApp(app).get("/").text == "hello 500"
    (pool,) = pools
    assert (pool.stats().slots, pool.timeout) == (3, 5)


def test_paste_loads_every_option(address: str, pools: list[Any], tmp_path: Path) -> None:
    app = load(
        tmp_path,
        f"servers = {address}, {address}\n"
        "size = 3\n"
        "timeout = .5\n"
        "pool = bounded\n"
        "environ_key = mc.sessions\n"
        "binary = off\n"
        "fail_soft = on\n"
        "command_timeout = 2\n"
        "allow_pickle = off\n"
        "lazy = on\n"
        "behaviors.ketama = true\n"
        "behaviors.connect_timeout = 300\n",
        key="mc.sessions",
    )
    assert TestApp(app).get("/").text == "hello 300"
    assert pools[0].timeout == 0.5
    with pools[0].reserve() as client:
        assert (client.addresses, client.binary) == ([address, address], False)
        assert client.behaviors["ketama"] == 1
        with pytest.raises(PickleForbidden):
            client.set("key", {"not": "text"})


@pytest.mark.parametrize("lazy", ["on", "off"])
def test_lazy_middleware_reserves_no_client_for_an_app_that_uses_none(
    address: str, pools: list[Any], lazy: str
) -> None:
    def idle(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    app = filter_app_factory(idle, {}, servers=address, size="1", lazy=lazy)
    assert TestApp(app).get("/").text == "hello"
    assert pools[0].stats().reservations == (0 if lazy == "on" else 1)


def test_paste_loads_the_pool_with_a_client_per_thread(
    address: str, pools: list[Any], tmp_path: Path
) -> None:
    """The options of the other pool may stay, so only one line changes."""
    for options in ("", "\nsize = 3\ntimeout = 1"):
        app = load(tmp_path, f"servers = {address}\npool = thread-mapped{options}")
        assert TestApp(app).get("/").text == "hello 500"
        assert pools[-1].stats().slots is None


@pytest.mark.parametrize("kind", ["bounded", "thread-mapped"])
def test_pool_from_paste_may_have_a_name(kind: str, pools: list[Any], tmp_path: Path) -> None:
    load(tmp_path, f"servers = cache\nsize = 1\npool = {kind}\nname = sessions")
    assert pools[0].name == "sessions"


def test_default_servers_are_those_of_the_environment(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in SERVICES:
        monkeypatch.delenv(f"{service}_SERVERS", raising=False)
    with pytest.raises(ValueError, match="MEMCACHED_SERVERS"):
        load(tmp_path, "size = 1")
    monkeypatch.setenv("MEMCACHEDCLOUD_SERVERS", address)
    assert TestApp(load(tmp_path, "size = 1")).get("/").text == "hello 500"
    monkeypatch.setenv("MEMCACHED_SERVERS", "not:asked")
    assert TestApp(load(tmp_path, f"size = 1\nservers = {address}")).get("/").text == "hello 500"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("", "^size is missing"),
        ("size = many", "^size must be a positive integer, not 'many'$"),
        ("size = 0", "^size must be a positive integer, not '0'$"),
        ("size = -3", "^size must be a positive integer, not '-3'$"),
        ("size = 1\ntimeout = soon", "^timeout must be a number of seconds, not 'soon'$"),
        ("size = 1\ntimeout = -1", "^timeout must be a number of seconds, not '-1'$"),
        ("size = 1\ntimeout = nan", "^timeout must be a number of seconds, not 'nan'$"),
        ("pool = big", "^pool must be one of bounded, thread-mapped, not 'big'$"),
        ("size = 1\nenviron_key =", "^environ_key must be some text, not ''$"),
        ("size = 1\nlazy = maybe", "^lazy must be true or false, not 'maybe'$"),
        ("size = 1\nbinary = maybe", "^binary must be true or false, not 'maybe'$"),
        ("size = 1\ncommand_timeout = 0", "^command_timeout must be a positive number of"),
        ("size = 1\nusername = me", "^username is set and password is not$"),
        ("size = 1\ntime_out = 3", "^unknown option 'time_out'; the options are servers, .*time"),
        ("size = 1\nbehaviors.ketma = true", "^unknown option 'behaviors.ketma'"),
        ("size = 1\nketama = true", "^unknown option 'ketama'.*behaviors.ketama"),
        ("size = 1\nbehaviors.cas = 2", "^behaviors.cas must be true or false, not '2'$"),
    ],
)
def test_wrong_options_of_paste_are_refused_at_start_up(
    tmp_path: Path, options: str, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        load(tmp_path, f"servers = cache\n{options}")


def test_apps_behind_one_filter_share_its_pool(
    address: str, pools: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "production.ini"
    file.write_text(f"[filter:main]\nuse = egg:mcpool-wsgi\nservers = {address}\nsize = 1\n")
    wrap = loadfilter(f"config:{file}")
    for app in (wrap(make_app({})), wrap(make_app({}))):
        assert TestApp(app).get("/").text == "hello 500"
    (pool,) = pools
    assert pool.stats().reservations == 2


def test_both_factories_make_the_same_middleware(address: str, pools: list[Any]) -> None:
    filter_app_factory(make_app({}), {}, servers=address, size="2", timeout="0")
    filter_factory(None, servers=address, size="2", timeout="0")(make_app({}))
    for pool in pools:
        assert (pool.stats().slots, pool.timeout) == (2, 0)
    assert len(pools) == 2


def test_paste_loads_the_factory_that_wraps_an_app(
    address: str, pools: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "production.ini"
    file.write_text(
        "[filter:memcached]\n"
        "paste.filter_app_factory = mcpool_wsgi.config:filter_app_factory\n"
        f"servers = {address}\nsize = 2\n"
        "[app:main]\nfilter-with = memcached\npaste.app_factory = test_config:make_app\n"
    )
    app = loadapp(f"config:{file}")
    assert TestApp(app).get("/").text == "hello 500"
    assert [pool.stats().slots for pool in pools] == [2]


# -- Pools, and sources that they follow

SOURCE = "dns+memcached.cache.test"


@pytest.fixture
def source(address: str, system_names: Nameserver) -> str:
    """The source whose only server is the memcached."""
    system_names.records["memcached.cache.test", "A"] = ["127.0.0.1"]
    return f"{SOURCE}:{address.rpartition(':')[2]}"


def servers_of(pool: Any) -> list[str]:
    with pool.reserve() as mc:
        return list(mc.addresses)


def test_pools_from_the_environment_and_from_a_url(address: str) -> None:
    with pool_from_environ(
        3,
        {"MEMCACHED_SERVERS": address},
        timeout=0.5,
        name="cache",
        behaviors={"connect_timeout": 321},
        command_timeout=2,
        allow_pickle=False,
    ) as pool:
        assert (pool.name, pool.stats().slots, pool.timeout) == ("cache", 3, 0.5)
        with pool.reserve() as mc:
            assert mc.behaviors["connect_timeout"] == 321
            with pytest.raises(PickleForbidden):
                mc.set("key", {"not": "text"})
    url = f"memcached://{address}/?connect_timeout=321"
    with pool_from_url(url, 3, timeout=0.5, name="cache") as pool:
        assert (pool.name, pool.stats().slots, pool.timeout) == ("cache", 3, 0.5)
        with pool.reserve() as mc:
            assert mc.behaviors["connect_timeout"] == 321
            assert mc.set("key", "value")


def test_client_of_a_source_has_the_servers_of_now(source: str, address: str) -> None:
    for client in (
        client_from_environ({"MEMCACHED_SERVERS": f" {source}, "}, fail_soft=True),
        client_from_url(f"memcached://{source}/?fail_soft=true"),
    ):
        assert client.addresses == [address]
        assert client.set("key", "value")


def test_credentials_go_to_the_servers_of_a_source(source: str, address: str) -> None:
    client = client_from_url(f"memcached://me:secret@{source}")
    assert client.addresses == [address]
    assert authenticates_with(client, "me", "secret")


@pytest.mark.parametrize("answers", [True, False])
def test_credentials_go_to_the_servers_that_a_pool_follows(
    source: str,
    address: str,
    answers: bool,
    pools: list[Any],
    system_names: Nameserver,
    tmp_path: Path,
) -> None:
    if not answers:
        system_names.fails_with = {"A": dns.rcode.SERVFAIL}
    load(tmp_path, f"servers = {source}\nsize = 2\nusername = me\npassword = secret")
    load(tmp_path, f"servers = {source}\npool = thread-mapped\nusername = me\npassword = secret")
    names = {"SERVERS": source, "USERNAME": "me", "PASSWORD": "secret"}
    pool_from_environ(2, {f"MEMCACHED_{name}": text for name, text in names.items()})
    pool_from_url(f"memcached://me:secret@{source}", 2)
    assert len(pools) == 4
    for pool in pools:
        with pool, pool.reserve() as mc:
            assert mc.addresses == [address if answers else f"/dev/null/{source}"]
            assert authenticates_with(pool.master, "me", "secret")
            if not answers:
                with pytest.raises(pylibmc.Error, match="/dev/null/dns"):
                    mc.get("key")


def test_client_of_a_source_that_does_not_answer_is_an_error(system_names: Nameserver) -> None:
    system_names.fails_with = {"A": dns.rcode.SERVFAIL}
    with pytest.raises(OSError, match="SERVFAIL"):
        client_from_url(f"memcached://{SOURCE}")
    with pytest.raises(OSError, match="SERVFAIL"):
        client_from_environ({"MEMCACHED_SERVERS": SOURCE})


def pools_that_follow(source: str, pools: list[Any], tmp_path: Path) -> list[Any]:
    """One pool of each kind of configuration. Their clients have ``fail_soft``."""
    pools.clear()
    load(tmp_path, f"servers = {source}\nsize = 2\nfail_soft = on")
    load(tmp_path, f"servers = {source}\npool = thread-mapped\nfail_soft = on")
    pool_from_environ(2, {"MEMCACHED_SERVERS": source}, fail_soft=True)
    pool_from_url(f"memcached://{source}/?fail_soft=true", 2)
    assert len(pools) == 4
    return pools


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Discovery asks all the time."""
    often = functools.partial(Discovery, interval=0.01)
    monkeypatch.setattr(clients, "Discovery", often)


@pytest.mark.usefixtures("often")
def test_pools_follow_a_source(
    source: str, address: str, pools: list[Any], system_names: Nameserver, tmp_path: Path
) -> None:
    for pool in pools_that_follow(source, pools, tmp_path):
        with pool:
            assert servers_of(pool) == [address]
            with pool.reserve() as mc:
                assert mc.set("key", "value")
    for pool in pools_that_follow(source, pools, tmp_path):
        with pool:
            system_names.records["memcached.cache.test", "A"] = ["127.0.0.1", "127.0.0.9"]
            eventually(lambda: len(servers_of(pool)) == 2)  # noqa: B023
            system_names.records["memcached.cache.test", "A"] = ["127.0.0.1"]
            eventually(lambda: servers_of(pool) == [address])  # noqa: B023


@pytest.mark.usefixtures("often")
def test_pools_start_while_their_source_does_not_answer(
    source: str,
    address: str,
    pools: list[Any],
    system_names: Nameserver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    system_names.fails_with = {"A": dns.rcode.SERVFAIL}
    followers = pools_that_follow(source, pools, tmp_path)
    assert caplog.text.count("keeping the servers") == len(followers)
    for pool in followers:
        with pool.reserve() as mc:
            assert mc.get("key", "default") == "default"
            assert not mc.set("key", "value")
    assert f"memcached /dev/null/{source} fails" in caplog.text
    system_names.fails_with = {}
    for pool in followers:
        with pool:
            eventually(lambda: servers_of(pool) == [address])  # noqa: B023
            with pool.reserve() as mc:
                assert mc.set("key", "value")


@pytest.mark.parametrize(
    "servers",
    [
        *("dns+a:port", "dns+", "dnssrv+a:11211", "dnsrv+a", "elasticache+", "dns+10.0.0.1"),
        *("dns+a,dns+b", "dns+a 10.0.0.1", "10.0.0.1;dns+a", "/run/memcached.sock,dns+a"),
    ],
)
def test_source_that_does_not_parse_or_is_not_alone_is_refused(servers: str) -> None:
    make: Any
    error = rf"must be one source like dns\+host:port, .*, not {re.escape(repr(servers))}$"
    for make in (client_from_environ, functools.partial(pool_from_environ, 1)):
        with pytest.raises(ValueError, match=f"^MEMCACHED_SERVERS {error}"):
            make({"MEMCACHED_SERVERS": servers})
    with pytest.raises(ValueError, match=f"^servers {error}"):
        filter_factory({}, servers=servers, size="1")
    if "/" not in servers:
        for make in (client_from_url, functools.partial(pool_from_url, n_slots=1)):
            with pytest.raises(ValueError, match=f"^servers {error}"):
                make(f"memcached://{servers}")


@pytest.mark.usefixtures("without_dnspython")
def test_source_that_needs_dnspython_says_so() -> None:
    make: Any
    for make in (client_from_url, functools.partial(pool_from_url, n_slots=1)):
        with pytest.raises(ImportError, match=r"pip install 'mcpool-wsgi\[dns\]'"):
            make("memcached://dnssrv+_memcache._tcp.cache")


def test_path_with_a_plus_is_a_path(tmp_path: Path) -> None:
    assert client_from_url("memcached:///run/a+b.sock").addresses == ["/run/a+b.sock"]
    environ = {"MEMCACHED_SERVERS": "/run/dns+b.sock"}
    assert client_from_environ(environ).addresses == ["/run/dns+b.sock"]


def test_wrong_number_of_slots_starts_no_discovery(system_names: Nameserver) -> None:
    with pytest.raises(ValueError, match="slots"):
        pool_from_url(f"memcached://{SOURCE}", 0)
    assert system_names.questions == []
