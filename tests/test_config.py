"""Configuration as deployments have it: variables, URLs, and .ini files that PasteDeploy loads."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from pathlib import Path
from typing import Any

import pylibmc
import pytest
from paste.deploy import loadapp, loadfilter
from webtest import TestApp

from mcpool_wsgi import Client, MemcachedPoolMiddleware
from mcpool_wsgi.behaviors import DEFAULT_BEHAVIORS
from mcpool_wsgi.config import (
    SERVICES,
    client_from_environ,
    client_from_url,
    filter_app_factory,
    filter_factory,
)
from mcpool_wsgi.devserver import memcached

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


def test_client_from_the_environment_fails_softly_if_asked_to() -> None:
    environ = {"MEMCACHED_SERVERS": "127.0.0.1:1"}
    assert client_from_environ(environ, fail_soft=True).get("key", "default") == "default"


@pytest.mark.parametrize("environ", [{}, {"MEMCACHED_SERVERS": ""}, {"MEMCACHIER_USERNAME": "u"}])
def test_environment_without_servers_is_refused_and_the_variables_named(environ: Any) -> None:
    with pytest.raises(
        ValueError, match="MEMCACHED_SERVERS, MEMCACHIER_SERVERS, MEMCACHEDCLOUD_SERVERS"
    ):
        client_from_environ(environ)


def test_own_variables_come_before_those_of_services() -> None:
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
    "servers", ["cache:port", ",;", "cache:70000", "cache:", ":11211", "http://cache"]
)
def test_servers_that_do_not_parse_are_refused(servers: str) -> None:
    with pytest.raises(ValueError, match=f"MEMCACHED_SERVERS is '{servers}' and should be ser"):
        client_from_environ({"MEMCACHED_SERVERS": servers})


def test_what_may_be_a_password_is_not_shown() -> None:
    with pytest.raises(ValueError, match="MEMCACHED_SERVERS is not shown") as caught:
        client_from_environ({"MEMCACHED_SERVERS": "memcached://me:secret@cache"})
    assert "secret" not in str(caught.value)


# -- Credentials


class Introduction(socketserver.StreamRequestHandler):
    """Notes what a client begins with, and hangs up."""

    def handle(self) -> None:
        self.server.heard.append(self.rfile.read(2))  # type: ignore[attr-defined]


ASKS_FOR_SASL = b"\x80\x20"  # the binary protocol's "list mechanisms"


def introduces_itself_with(client: Client, username: str, password: str) -> bool:
    """Whether *client* has these credentials, and begins a connection with SASL."""
    with socketserver.TCPServer(("127.0.0.1", 0), Introduction) as server:
        server.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with contextlib.suppress(pylibmc.Error):
            client.with_servers([f"127.0.0.1:{server.server_address[1]}"]).get("key")
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
    assert introduces_itself_with(client, "me", "p@ss: w%rd ")


def test_credentials_from_a_url() -> None:
    client = client_from_url("memcached://me:p%40ss%3A%20w%25rd%20@cache")
    assert client.binary
    assert introduces_itself_with(client, "me", "p@ss: w%rd ")


def test_credentials_from_paste(tmp_path: Path) -> None:
    options = "servers = cache\nsize = 1\nusername = me\npassword = 100%% Secret"
    with pool_of(load(tmp_path, options)).reserve() as client:
        assert client.binary
        assert introduces_itself_with(client, "me", "100% Secret")


def test_credentials_without_the_binary_protocol_are_refused() -> None:
    with pytest.raises(ValueError, match="binary is false"):
        client_from_url("memcached://me:secret@cache?binary=no")


# -- A URL


def test_url_with_several_servers_and_behaviors() -> None:
    client = client_from_url(
        "memcached://127.0.0.1,cache:11212,[::1]:11213/?ketama=false&connect_timeout=300"
        "&hash=md5&distribution=consistent+ketama&binary=true&_poll_timeout=-1"
    )
    assert client.addresses == ["127.0.0.1", "cache:11212", "[::1]:11213"]
    assert client.binary
    behaviors = client.behaviors
    assert (behaviors["connect_timeout"], behaviors["hash"]) == (300, "md5")
    assert behaviors["_poll_timeout"] == -1


def test_url_leaves_the_defaults_alone() -> None:
    behaviors = client_from_url("memcached://cache").behaviors
    assert {name: behaviors[name] for name in DEFAULT_BEHAVIORS} == DEFAULT_BEHAVIORS


def test_client_from_a_url_works(address: str) -> None:
    client = client_from_url(f"memcached://{address}/?namespace=site:&fail_soft=yes")
    assert client.set("key", "value")
    assert Client([address]).get("site:key") == "value"


@pytest.mark.servers
def test_url_of_a_unix_socket(embedded: bool | None, tmp_path: Path) -> None:
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
def test_what_is_no_url_of_a_memcached_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="and this one is not") as caught:
        client_from_url(url)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("ketma=true", r"no option 'ketma'; there are .*ketama,"),
        ("ketama=perhaps", "ketama is 'perhaps' and should be true or false"),
        ("connect_timeout=true", "connect_timeout is 'true' and should be an integer"),
        ("connect_timeout=", "connect_timeout is '' and should be an integer"),
        ("connect_timeout=99999999999", "and should be an integer"),
        ("hash=sha1", "hash is 'sha1' and should be one of .*md5"),
        ("distribution=fair", "distribution is 'fair' and .* one of .*consistent"),
        ("fail_soft=maybe", "fail_soft is 'maybe' and should be true or false"),
        ("servers=other", "no option 'servers'"),
        ("hash=hsieh", "libmemcached refuses an option: .*hash"),
        ("pickle_protocol=99", "pickle_protocol is '99' and should be 0 to [5-9]"),
    ],
)
def test_options_of_a_url_that_are_wrong_are_refused(query: str, error: str) -> None:
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


def pool_of(app: MemcachedPoolMiddleware) -> Any:
    return app._pool


@pytest.mark.parametrize(
    "use", ["egg:mcpool-wsgi", "egg:mcpool-wsgi#main", "call:mcpool_wsgi.config:filter_factory"]
)
def test_paste_loads_the_filter(address: str, tmp_path: Path, use: str) -> None:
    app = load(tmp_path, f"servers = {address}\nsize = 3", use)
    assert isinstance(app, MemcachedPoolMiddleware)
    assert TestApp(app).get("/").text == "hello 500"
    assert pool_of(app).stats().slots == 3
    assert pool_of(app).timeout == 5


def test_paste_loads_every_option(address: str, tmp_path: Path) -> None:
    app = load(
        tmp_path,
        f"servers = {address}, {address}\n"
        "size = 3\n"
        "timeout = .5\n"
        "pool = bounded\n"
        "environ_key = mc.sessions\n"
        "binary = off\n"
        "fail_soft = on\n"
        "behaviors.ketama = true\n"
        "behaviors.connect_timeout = 300\n",
        key="mc.sessions",
    )
    assert TestApp(app).get("/").text == "hello 300"
    assert pool_of(app).timeout == 0.5
    with pool_of(app).reserve() as client:
        assert (client.addresses, client.binary) == ([address, address], False)
        assert client.behaviors["ketama"] == 1


def test_paste_loads_the_pool_with_a_client_per_thread(address: str, tmp_path: Path) -> None:
    """Its line is the only one that changes, so what the other pool needs may stay."""
    for options in ("", "\nsize = 3\ntimeout = 1"):
        app = load(tmp_path, f"servers = {address}\npool = thread-mapped{options}")
        assert TestApp(app).get("/").text == "hello 500"
        assert pool_of(app).stats().slots is None


def test_servers_left_out_come_from_the_environment(
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
        ("size = many", "^size is 'many' and should be a positive integer"),
        ("size = 0", "^size is '0' and should be a positive integer"),
        ("size = -3", "^size is '-3' and should be a positive integer"),
        ("size = 1\ntimeout = soon", "^timeout is 'soon' and should be a number of seconds"),
        ("size = 1\ntimeout = -1", "^timeout is '-1' and should be a number of seconds"),
        ("size = 1\ntimeout = nan", "^timeout is 'nan' and should be a number of seconds"),
        ("pool = big", "^pool is 'big' and should be one of bounded, thread-mapped"),
        ("size = 1\nenviron_key =", "^environ_key is '' and should be some text"),
        ("size = 1\nbinary = maybe", "^binary is 'maybe' and should be true or false"),
        ("size = 1\nusername = me", "^username is set and password is not"),
        ("size = 1\ntime_out = 3", "^there is no option 'time_out'; there are servers, .*timeout"),
        ("size = 1\nbehaviors.ketma = true", "^there is no option 'behaviors.ketma'"),
        ("size = 1\nketama = true", "^there is no option 'ketama'.*behaviors.ketama"),
        ("size = 1\nbehaviors.cas = 2", "^behaviors.cas is '2' and should be true or false"),
    ],
)
def test_paste_options_that_are_wrong_are_refused_at_start_up(
    tmp_path: Path, options: str, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        load(tmp_path, f"servers = cache\n{options}")


def test_apps_behind_one_filter_share_its_pool(address: str, tmp_path: Path) -> None:
    file = tmp_path / "production.ini"
    file.write_text(f"[filter:main]\nuse = egg:mcpool-wsgi\nservers = {address}\nsize = 1\n")
    wrap = loadfilter(f"config:{file}")
    first, second = wrap(make_app({})), wrap(make_app({}))
    assert pool_of(first) is pool_of(second)
    assert TestApp(second).get("/").text == "hello 500"


def test_both_factories_make_the_same(address: str, tmp_path: Path) -> None:
    app = filter_app_factory(make_app({}), {}, servers=address, size="2", timeout="0")
    assert TestApp(app).get("/").text == "hello 500"
    same = filter_factory(None, servers=address, size="2", timeout="0")(make_app({}))
    for made in (app, same):
        assert (pool_of(made).stats().slots, pool_of(made).timeout) == (2, 0)
    loaded = load(
        tmp_path, f"servers = {address}\nsize = 2", "call:mcpool_wsgi.config:filter_factory"
    )
    assert pool_of(loaded).stats().slots == 2


def test_paste_loads_the_factory_that_wraps_an_app(address: str, tmp_path: Path) -> None:
    file = tmp_path / "production.ini"
    file.write_text(
        "[filter:memcached]\n"
        "paste.filter_app_factory = mcpool_wsgi.config:filter_app_factory\n"
        f"servers = {address}\nsize = 2\n"
        "[app:main]\nfilter-with = memcached\npaste.app_factory = test_config:make_app\n"
    )
    app = loadapp(f"config:{file}")
    assert pool_of(app).stats().slots == 2
    assert TestApp(app).get("/").text == "hello 500"
