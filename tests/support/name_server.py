"""A small DNS server on loopback, over UDP and TCP, whose answers a test changes while it runs."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

NOTHING_FOR_2_SECONDS = "ns.internal. hostmaster.internal. 1 3600 600 86400 2"


@dataclass
class NameServer:
    """Answers for the names given to `knows`; use it as an asynchronous context manager, more than once if need be.

    refuses: record types, such as "AAAA", of which it says that it cannot look them up
    ignores: record types whose queries it never answers
    queries: the record types asked for, in their order
    """

    port: int = 0
    refuses: set[str] = field(default_factory=set)
    ignores: set[str] = field(default_factory=set)
    queries: list[str] = field(default_factory=list)
    _records: dict[tuple[str, str], tuple[int, Sequence[str]]] = field(default_factory=dict)
    _udp: asyncio.DatagramTransport | None = None
    _tcp: asyncio.Server | None = None

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def knows(
        self, name: str, a: Sequence[str] = (), aaaa: Sequence[str] = (), ttl: int = 1, aaaa_ttl: int = 1
    ) -> None:
        self._records[name, "A"] = ttl, a
        self._records[name, "AAAA"] = aaaa_ttl, aaaa

    def forget(self, name: str) -> None:
        del self._records[name, "A"], self._records[name, "AAAA"]

    def answer(self, query: bytes, most: int = 1 << 16) -> bytes:
        question = dns.message.from_wire(query)
        asked = question.question[0]
        name, kind = asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)
        self.queries.append(kind)
        if kind in self.ignores:
            return b""
        response = dns.message.make_response(question, recursion_available=True)
        if kind in self.refuses:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) not in self._records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            ttl, addresses = self._records[name, kind]
            if addresses:
                response.answer = [dns.rrset.from_text_list(asked.name, ttl, "IN", kind, addresses)]
            else:
                response.authority = [dns.rrset.from_text(asked.name, 2, "IN", "SOA", NOTHING_FOR_2_SECONDS)]
        if len(response.to_wire()) > most:
            response.answer = []
            response.flags |= dns.flags.TC
        return response.to_wire()

    async def __aenter__(self) -> NameServer:
        server = self

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
                server._udp = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                assert server._udp is not None
                if answer := server.answer(data, most=512):
                    server._udp.sendto(answer, addr)

        self.port = self.port or _free_port()
        await asyncio.get_running_loop().create_datagram_endpoint(Udp, ("127.0.0.1", self.port))
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._udp is not None
        assert self._tcp is not None
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        [length] = struct.unpack("!H", await reader.readexactly(2))
        answer = self.answer(await reader.readexactly(length))
        writer.write(struct.pack("!H", len(answer)) + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def _free_port() -> int:
    """Find a port that is free for both protocols."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
