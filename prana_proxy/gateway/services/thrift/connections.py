"""Connections to Thrift services: each carries one call at a time, and is kept for a while for the next."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from typing import NamedTuple, cast

from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.keep_alive import KeepAlivePolicy
from prana_proxy.gateway.services.thrift.binary_protocol import (
    LENGTH,
    MessageKind,
    UnfitError,
    end_of_message,
    message_head,
    read_message_head,
)

_IDLE_SECONDS = 4.0  # shorter than services' own time, as for HTTP


class ConnectionCutError(Exception):  # an event
    """The connection ended before the answer did. begun: whether some of it had arrived."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class ThriftConnection(asyncio.Protocol):
    """One connection.

    framed: whether each message is preceded by its length
    """

    def __init__(self, framed: bool) -> None:
        self._framed = framed
        self._data, self._needed = bytearray(), 0
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost = self._busy = False
        self._sequence = 0
        self.expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes; wake the reader once there are enough."""
        if not self._busy:
            self.close()
            return
        self._data += data
        if len(self._data) >= self._needed:
            self._wake()

    def connection_lost(self, _: Exception | None) -> None:
        """Wake the reader, which waits in vain."""
        self._lost = True
        self._wake()

    @property
    def used(self) -> bool:
        """Whether it has carried a call."""
        return self._sequence > 0

    @property
    def usable(self) -> bool:
        """Whether it can carry a call: it is open, and has received nothing unrequested."""
        return not (self._lost or self._data or self._transport is None or self._transport.is_closing())

    def close(self) -> None:
        """Close it at once, even during a call."""
        if self.expiry is not None:
            self.expiry.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def call(self, method: str, arguments: bytes, most: int) -> bytes:
        """Call a method and return the message that answers, of at most so many bytes.

        Raises ConnectionCutError and UnfitError.
        """
        assert self._transport is not None
        self._busy, self._sequence = True, self._sequence % 0x7FFFFFFF + 1
        message = message_head(method, MessageKind.CALL, self._sequence) + arguments
        self._transport.write(LENGTH.pack(len(message)) + message if self._framed else message)
        answer = await (self._frame(most) if self._framed else self._message(most))
        _, sequence, _ = read_message_head(answer)
        if sequence != self._sequence:
            raise UnfitError("the answer has another sequence id than the call")
        self._busy = False
        return answer

    async def _frame(self, most: int) -> bytes:
        await self._fill(LENGTH.size)
        length = LENGTH.unpack_from(self._data)[0]
        if length <= 0:
            raise UnfitError("the answer is not a frame: does the service use ?transport=buffered")
        await self._fill(LENGTH.size + _at_most(length, most))
        return self._take(LENGTH.size, LENGTH.size + length)

    async def _message(self, most: int) -> bytes:
        search: Generator[int, None, int] = end_of_message(self._data)
        while True:
            try:
                needed = next(search)
            except StopIteration as stop:
                end: int = stop.value
                break
            await self._fill(_at_most(needed, most))
        await self._fill(_at_most(end, most))
        return self._take(0, end)

    async def _fill(self, needed: int) -> None:
        """Wait until so many bytes have arrived."""
        while len(self._data) < needed:
            if self._lost:
                raise ConnectionCutError(begun=bool(self._data))
            self._needed, self._waiter = needed, asyncio.get_running_loop().create_future()
            await self._waiter

    def _take(self, start: int, end: int) -> bytes:
        with memoryview(self._data) as view:
            taken = bytes(view[start:end])
        self._data = self._data[end:]
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _at_most(size: int, most: int) -> int:
    if size > most:
        raise UnfitError(f"the answer is larger than {most} bytes")
    return size


class Endpoint(NamedTuple):
    """Where a connection leads. tls: None: plain; server_name: expected in the certificate."""

    instance: Instance
    framed: bool
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


class ConnectionPool:
    """Idle connections, closed when no further call comes; max_concurrent limits their number."""

    def __init__(self) -> None:
        self._idle: dict[Endpoint, list[ThriftConnection]] = {}
        self.keep_alive = KeepAlivePolicy[Endpoint]()

    async def take(self, endpoint: Endpoint, new: bool = False) -> ThriftConnection:
        """Return a usable connection. new: not a kept one. Raises OSError when connecting fails."""
        idle = [] if new else self._idle.get(endpoint, [])
        while idle:
            connection = idle.pop()  # the most recently used one, so that others may expire
            if connection.expiry is not None:
                connection.expiry.cancel()
            if connection.usable:
                return connection
            connection.close()
        if not new:
            self._idle.pop(endpoint, None)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: ThriftConnection(endpoint.framed),
            endpoint.instance.host,
            endpoint.instance.port,
            ssl=endpoint.tls,
            server_hostname=endpoint.server_name,
        )
        return connection

    def release(self, endpoint: Endpoint, connection: ThriftConnection, was_kept: bool, keep: bool) -> None:
        """Take back a connection after its call. keep: keep it, unless its server closes kept connections."""
        if was_kept:
            self.keep_alive.served_again(endpoint)
        if not (keep and connection.usable and self.keep_alive.keeps(endpoint)):
            connection.close()
            return
        self._idle.setdefault(endpoint, []).append(connection)
        connection.expiry = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._expire, endpoint, connection)

    async def close(self) -> None:
        """Close all idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # so that their sockets are closed when this returns

    def _expire(self, endpoint: Endpoint, connection: ThriftConnection) -> None:
        connection.close()
        idle = self._idle.get(endpoint, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(endpoint, None)
