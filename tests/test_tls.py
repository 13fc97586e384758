"""TLS, by a tunnel that the clients reach over a Unix socket: a real stunnel, a real memcached."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pylibmc
import pytest
import trustme
from harness import eventually, free_port, in_threads
from secured import REALM, Users, memcached, tunnel

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool

pytestmark = pytest.mark.servers

HOST = "cache.example.com"


class TlsServer:
    """A memcached that takes TLS only, with a certificate of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = ExitStack()
        self._options: tuple[str, ...] = ()
        self.authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self.certify(self.authority.issue_cert(HOST))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        #: Where the tunnel listens.
        self.socket = str(directory / "socket")

    def certify(self, certificate: trustme.LeafCert) -> None:
        """Use *certificate* from the next start on."""
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self._directory / "key.pem"))

    def start(self, *options: str, **environ: Any) -> None:
        tls = f"ssl_chain_cert={self._directory}/key.pem,ssl_key={self._directory}/key.pem"
        arguments = ("-Z", "-o", tls, *options)
        server = memcached(self._directory, *arguments, port=self.port, **environ)
        self._running.enter_context(server)

    def kill(self) -> None:
        self._running.close()

    def tunnel(self, accept: str | None = None, **options: str) -> Any:
        """A tunnel to this server."""
        Path(self.socket).unlink(missing_ok=True)  # as the page on TLS says
        return self.tunnel_without_care(accept, **options)

    def tunnel_without_care(self, accept: str | None = None, **options: str) -> Any:
        options = {"CAfile": str(self.ca_file), "checkHost": HOST, **options}
        return tunnel(self._directory, accept or self.socket, self.address, **options)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path)
    server.start()
    yield server
    server.kill()


def is_refused(mc: Client) -> bool:
    """Whether *mc* gets nothing through, neither as an error nor with fail_soft."""
    soft = Client(mc.addresses, binary=mc.binary, fail_soft=True)
    assert soft.set("key", "value") is False
    assert soft.get("key", "nothing") == "nothing"
    assert soft.get_multi(["key"]) == {}
    for _ in range(3):
        with pytest.raises(pylibmc.Error):
            mc.set("key", "value")
        with pytest.raises(pylibmc.Error):
            mc.get("key")
    return True


# -- Values go through


@pytest.mark.parametrize("binary", [False, True])
def test_values_go_through(server: TlsServer, binary: bool) -> None:
    with server.tunnel():
        mc = Client([server.socket], binary=binary)
        for value in ("text", b"", 7, ["pickled"], "x" * 900_000):
            assert mc.set("key", value)
            assert mc.get("key") == value
        assert mc.set_multi({f"key{number}": number for number in range(1000)}) == []
        assert len(mc.get_multi([f"key{number}" for number in range(1000)])) == 1000
        assert mc.incr("key1", 5) == 6


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_pools_work_through_a_tunnel(server: TlsServer, pool_class: Any) -> None:
    with server.tunnel():
        pool = pool_class.from_servers([server.socket], 4)

        def work(thread: int) -> None:
            for number in range(200):
                with pool.reserve() as mc:
                    assert mc.set(f"{thread}-{number}", number)
                    assert mc.get(f"{thread}-{number}") == number

        in_threads([lambda thread=thread: work(thread) for thread in range(8)])  # type: ignore[misc]
        assert pool.stats().failures == 0


def test_tunnel_shows_its_certificate_to_a_server_that_asks(
    server: TlsServer, tmp_path: Path
) -> None:
    server.kill()
    server.start("-o", f"ssl_verify_mode=2,ssl_ca_cert={server.ca_file}")
    with server.tunnel():
        assert is_refused(Client([server.socket]))
    own = server.authority.issue_cert("app.example.com")
    own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    with server.tunnel(cert=str(tmp_path / "own.pem")):
        assert Client([server.socket]).set("key", "value")


def test_login_goes_through_a_tunnel_with_a_port(server: TlsServer, tmp_path: Path) -> None:
    users = Users(tmp_path)
    users.set_password("app", "right")
    server.kill()
    server.start("-S", "-vv", environ=users.environ)
    accept = f"127.0.0.1:{free_port()}"
    with server.tunnel(accept):
        mc = Client([accept], binary=True, username=f"app@{REALM}", password="right")
        assert mc.set("key", "value")
        assert mc.get("key") == "value"


# -- Who is refused


@pytest.mark.parametrize("binary", [False, True])
def test_plain_traffic_is_refused(server: TlsServer, binary: bool) -> None:
    assert is_refused(Client([server.address], binary=binary))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(b"version\r\n")
        with pytest.raises(ConnectionResetError):
            plain.recv(1)


def test_certificate_of_another_authority_is_refused(server: TlsServer, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with server.tunnel(CAfile=str(tmp_path / "other.pem")) as log:
        assert is_refused(Client([server.socket]))
        assert "certificate verify failed" in log.read_text()


def test_certificate_of_another_host_is_refused(server: TlsServer) -> None:
    with server.tunnel(checkHost="other.example.com") as log:
        assert is_refused(Client([server.socket]))
        assert "Subject checks failed" in log.read_text()


def test_certificate_that_has_expired_is_refused(server: TlsServer) -> None:
    server.kill()
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    server.certify(server.authority.issue_cert(HOST, not_after=yesterday))
    server.start()
    with server.tunnel() as log:
        assert is_refused(Client([server.socket]))
        assert "certificate has expired" in log.read_text()


# -- A tunnel or a server that has died


def pools_of(server: TlsServer) -> list[ClientPool]:
    return [ClientPool(Client([server.socket], fail_soft=soft), 4) for soft in (True, False)]


def works(pool: ClientPool) -> bool:
    with pool.reserve() as mc:
        try:
            return bool(mc.set("key", "value")) and mc.get("key") == "value"
        except pylibmc.Error:
            return False


def test_dead_tunnel_is_an_outage_that_ends_with_the_tunnels_return(server: TlsServer) -> None:
    pools = pools_of(server)
    with server.tunnel():
        assert all(works(pool) for pool in pools)
    assert is_refused(Client([server.socket]))
    for pool, soft in zip(pools, (True, False)):
        with pool.reserve() as mc:
            if soft:
                assert mc.get("key") is None
                assert mc.set("key", "value") is False
            else:
                with pytest.raises(pylibmc.Error):
                    mc.set("key", "value")
        assert pool.stats().failures
    with server.tunnel():
        for pool in pools:
            eventually(lambda pool=pool: works(pool))  # type: ignore[misc]


def test_socket_that_is_not_there_is_told_from_one_that_nobody_listens_at(
    server: TlsServer,
) -> None:
    with pytest.raises(pylibmc.Error, match=r"error 26 .*No such file or directory"):
        Client([server.socket]).get("key")
    with server.tunnel():
        pass  # the socket of a tunnel that was killed stays
    with pytest.raises(pylibmc.ConnectionError):
        Client([server.socket]).get("key")


def test_server_that_dies_behind_the_tunnel_is_the_same(server: TlsServer) -> None:
    pools = pools_of(server)
    with server.tunnel():
        assert all(works(pool) for pool in pools)
        server.kill()
        assert is_refused(Client([server.socket]))
        assert not any(works(pool) for pool in pools)
        server.start()
        for pool in pools:
            eventually(lambda pool=pool: works(pool))  # type: ignore[misc]


def test_tunnel_that_was_killed_starts_again_when_its_socket_is_removed(server: TlsServer) -> None:
    """So the documentation says to remove it."""
    with server.tunnel():
        pass
    restarted = server.tunnel_without_care()
    with pytest.raises(AssertionError, match="Address already in use"), restarted:
        pass
    with server.tunnel():
        assert Client([server.socket]).set("key", "value")
