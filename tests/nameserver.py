"""A DNS server on loopback, over UDP and TCP, whose records a test changes."""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from dns.resolver import Resolver


class Nameserver:
    """``records["cache.test", "A"] = ["10.0.0.1", ...]``. A name without records is NXDOMAIN."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 0
        self.ttls: dict[tuple[str, str], int] = {}  # of single records
        self.hangs = False
        self.hangs_for: set[str] = set()  # kinds of questions
        self.fails_with: dict[str, dns.rcode.Rcode] = {}  # by the kind of the question
        self.questions: list[tuple[str, str, str]] = []  # the name, the kind, udp or tcp
        self.host = host
        self._tcp = _TCPServer((host, port), _OverTCP)
        self.port: int = self._tcp.server_address[1]
        try:
            self._udp = _UDPServer((host, self.port), _OverUDP)
        except OSError:
            self._tcp.server_close()
            raise
        self._closing = False
        self._threads = []
        for server in (self._tcp, self._udp):
            server.nameserver = self
            self._threads.append(threading.Thread(target=self._serve, args=(server,)))
            self._threads[-1].start()

    def _serve(self, server: socketserver.BaseServer) -> None:
        while not self._closing:  # serve_forever() would wake up twice a second
            server.handle_request()
        server.server_close()

    def close(self) -> None:
        self._closing = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        socket.create_connection((self.host, self.port)).close()
        for thread in self._threads:
            thread.join(10)

    def resolver(self) -> Resolver:
        """A resolver that asks this server."""
        resolver = Resolver(configure=False)
        resolver.nameservers = [self.host]
        resolver.port = self.port
        return resolver

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind, transport))
        if self.hangs or kind in self.hangs_for:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if kind in self.fails_with:
            response.set_rcode(self.fails_with[kind])
            return response.to_wire()
        self._fill(response, question.name, kind)
        try:
            return response.to_wire(max_size=65535 if transport == "tcp" else 512)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _fill(self, response: dns.message.Message, owner: dns.name.Name, kind: str) -> None:
        name = owner.to_text(omit_final_dot=True).lower()
        known = {name for name, _ in self.records}
        aliases = self.records.get((name, "CNAME"))
        if aliases:
            self._add(response, owner, "CNAME", [f"{aliases[0]}."])
            self._fill(response, dns.name.from_text(aliases[0]), kind)
        elif name not in known:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif self.records.get((name, kind)):
            texts = self.records[name, kind].copy()
            random.shuffle(texts)  # as name servers do
            self._add(response, owner, kind, texts)

    def _add(
        self, response: dns.message.Message, owner: dns.name.Name, kind: str, texts: list[str]
    ) -> None:
        ttl = self.ttls.get((owner.to_text(omit_final_dot=True), kind), self.ttl)
        response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, *texts))


class _TCPServer(socketserver.ThreadingTCPServer):
    nameserver: Nameserver
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class _UDPServer(socketserver.ThreadingUDPServer):
    nameserver: Nameserver
    daemon_threads = True
    block_on_close = False


class _OverUDP(socketserver.BaseRequestHandler):
    server: _UDPServer

    def handle(self) -> None:
        wire, answers = self.request
        answer = self.server.nameserver.answer(wire, "udp") if wire else None
        if answer is not None:
            with contextlib.suppress(OSError):
                answers.sendto(answer, self.client_address)


class _OverTCP(socketserver.StreamRequestHandler):
    server: _TCPServer

    def handle(self) -> None:
        length = self.rfile.read(2)
        if len(length) == 2:
            wire = self.rfile.read(*struct.unpack("!H", length))
            answer = self.server.nameserver.answer(wire, "tcp")
            if answer is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)


@contextlib.contextmanager
def nameserver(host: str = "127.0.0.1", port: int = 0) -> Iterator[Nameserver]:
    for attempt in range(20):
        try:
            server = Nameserver(host, port)
            break
        except OSError:  # somebody has the UDP port of this number
            if attempt == 19:
                raise
    try:
        yield server
    finally:
        server.close()


def one_port(hosts: list[str]) -> int:
    """A port that is free on all these addresses."""
    while True:
        with contextlib.ExitStack() as listening:
            listener = listening.enter_context(socket.create_server((hosts[0], 0)))
            port = int(listener.getsockname()[1])
            try:
                for host in hosts[1:]:
                    listening.enter_context(socket.create_server((host, port)))
            except OSError:
                continue
            return port
