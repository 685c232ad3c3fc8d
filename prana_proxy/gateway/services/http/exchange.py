"""One HTTP/1.1 request and its response, over kept connections.

Connections, their pool, TLS, name resolution and the parser are aiohttp's. `ClientSession.request` is not used:
it takes three quarters of a short call's time, for redirects, cookies, traces and retries that are not wanted here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache, partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

from prana_proxy.gateway.answers import Cause, Reply
from prana_proxy.gateway.config import MEBIBYTE
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.keep_alive import KeepAlivePolicy
from prana_proxy.gateway.services import kept_connection_closed, unreachable
from prana_proxy.gateway.services.http.encodings import as_utf8, codings_of, decompressed
from schemas.services import Status

# Shorter than servers' usual 5 s, so that the service rarely closes a pooled connection first.
_KEEP_ALIVE_SECONDS = 4.0
_LONGEST_HEADER, _MOST_HEADERS = 65_536, 256
_MOST_AT_ONCE = 65_536  # bytes that are decompressed between two turns of the event loop
_MOST_OF_AN_ERROR = 65_536  # read and discarded, so that the connection can be used again
_IDLE_TOO_LONG = "HTTP 408"  # some servers send it to a kept connection before they close it
_NOT_OURS = (408, 425, 429)  # 4xx about the service's state, not about the request
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "prana-proxy"}
_JSON = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_MOST_INSTANCES = 1_000  # whose routes are cached
_NO_LIMITS = aiohttp.ClientTimeout(total=None)  # the gateway bounds the time

Route = tuple[aiohttp.ClientRequest, bytes]
"""Where aiohttp connects, and the headers that all requests share."""


class _Handler(ResponseHandler):
    """One connection.

    used: whether it has carried a call; busy: whether it carries one; answering: whether some of its answer is here
    """

    used = busy = answering = False

    def data_received(self, data: bytes) -> None:
        """Receive bytes; hang up on unrequested ones, which would be taken for the next answer."""
        if not self.busy and self.transport is not None:
            self.transport.abort()
            return
        self.answering = True
        super().data_received(data)


class HttpConnections:
    """Kept connections, and connections for one call each; no proxies, no settings from the environment."""

    def __init__(self) -> None:
        context = ssl.create_default_context()  # aiohttp's own depends on the environment at import
        # max_concurrent limits their number.
        self.kept = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=_KEEP_ALIVE_SECONDS)
        self.new = aiohttp.TCPConnector(limit=0, ssl=context, force_close=True)
        for connector in (self.kept, self.new):
            factory: Any = partial(_Handler, loop=asyncio.get_running_loop())
            connector._factory = factory
        self.keep_alive = KeepAlivePolicy[str]()

    async def close(self) -> None:
        """Close all."""
        await self.kept.close()
        await self.new.close()


class HttpExchange:
    """Sends one service's requests to an instance and reads the responses.

    scheme: http or https
    host, server_name: the service's own, where an instance's address is another name for it
    """

    def __init__(
        self, connections: HttpConnections, scheme: str, host: str | None = None, server_name: str | None = None
    ) -> None:
        self._connections, self._scheme, self._server_name = connections, scheme, server_name
        self._headers: Mapping[str, str] = _HEADERS if host is None else {**_HEADERS, "Host": host}
        self._route = lru_cache(_MOST_INSTANCES)(self._make_route)

    async def __call__(
        self, method: str, instance: Instance, path: str, data: bytes | None, most: int, new_connection: bool = False
    ) -> bytes | Reply:
        """Return the body of a successful response, of at most `most` bytes, or the reply for its failure."""
        request, headers = self._route(instance)
        head = b"%b %b HTTP/1.1\r\n%b" % (method.encode(), path.encode("ascii"), headers)
        connector = self._connections.new if new_connection else self._connections.kept
        try:
            with closing(await connector.connect(request, [], _NO_LIMITS)) as connection:
                return await self._ask(connection, instance, head, data, most)
        except HttpProcessingError:
            return Reply.failed(Status.INVALID, "the answer is not HTTP")
        except aiohttp.ClientPayloadError:
            return Reply.failed(Status.ERROR, "the connection was cut within the answer", Cause.CONNECTION)
        except (aiohttp.ClientError, OSError) as error:
            return _unreachable(error, instance)

    async def _ask(
        self, connection: aiohttp.connector.Connection, instance: Instance, head: bytes, data: bytes | None, most: int
    ) -> bytes | Reply:
        """Send a request over a connection, which is kept if the whole response was read; else the caller closes it."""
        handler, keep_alive = connection.protocol, self._connections.keep_alive
        assert isinstance(handler, _Handler)  # the connection was just opened
        kept, handler.used, handler.busy, handler.answering = handler.used, True, True, False
        try:
            body = await _converse(handler, head, data, most)
            closed = isinstance(body, Reply) and body.reason == _IDLE_TOO_LONG and handler.should_close
        except (aiohttp.ClientError, OSError):
            if not kept or handler.answering:
                raise
            closed = True
        if kept and closed:
            keep_alive.was_closed(instance.address)
            return kept_connection_closed(instance)
        handler.busy = False
        if kept:
            keep_alive.served_again(instance.address)
        if keep_alive.keeps(instance.address):
            connection.release()
        return body

    def _make_route(self, instance: Instance) -> Route:
        url = URL(f"{self._scheme}://{instance.address}/", encoded=True)
        request = aiohttp.ClientRequest("GET", url, headers=self._headers, server_hostname=self._server_name)
        return request, "".join(f"{name}: {value}\r\n" for name, value in request.headers.items()).encode()


async def _converse(protocol: ResponseHandler, head: bytes, data: bytes | None, most: int) -> bytes | Reply:
    protocol.set_response_params(
        read_until_eof=True,
        auto_decompress=False,  # it supports fewer codings, without a size limit
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
    )
    await _send(protocol, head, data)
    message, content = await protocol.read()
    while 100 <= message.code < 200 and message.code != 101:  # informational
        message, content = await protocol.read()
    reply = await _body(message, content, most)
    if protocol.transport is None or protocol.transport.get_write_buffer_size():
        protocol.force_close()  # the rest of the request would be taken for the next one
    return reply


async def _send(protocol: ResponseHandler, head: bytes, data: bytes | None) -> None:
    """Send a request; large ones piece by piece, so that encrypting them does not delay other services."""
    transport = protocol.transport
    if transport is None:  # closed since it was taken from the pool
        raise aiohttp.ServerDisconnectedError
    if data is None:
        transport.write(head + b"\r\n")
        return
    head += _JSON % len(data)
    if len(data) <= MEBIBYTE:
        transport.write(head + data)
        return
    transport.write(head)
    rest = memoryview(data)
    while rest and not transport.is_closing():
        transport.write(rest[:MEBIBYTE])
        rest = rest[MEBIBYTE:]
        await asyncio.sleep(0)


async def _body(message: RawResponseMessage, content: aiohttp.StreamReader, most: int) -> bytes | Reply:
    if message.code >= 300:
        await _read(message, content, _MOST_OF_AN_ERROR)
        hint = ": redirects are not followed" if message.code < 400 else ""
        ours = 400 <= message.code < 500 and message.code not in _NOT_OURS
        return Reply.failed(Status.ERROR, f"HTTP {message.code}{hint}", Cause.REQUEST if ours else Cause.SERVICE)
    sent = await _read(message, content, most)
    if sent is None:
        return Reply.failed(Status.INVALID, f"the answer is larger than {most} bytes")
    body: bytes | Reply = sent
    if sent and (codings := codings_of(message.headers.getall("Content-Encoding", ()))):
        work = partial(decompressed, sent, codings, most)
        # In a thread if it may take long, because all services share this one.
        body = await asyncio.to_thread(work) if len(sent) > _MOST_AT_ONCE else work()
    if body and isinstance(body, bytes):
        body = as_utf8(body, message.headers.get("Content-Type", ""))
    return body or Reply.failed(Status.INVALID, "the answer is empty")


async def _read(message: RawResponseMessage, content: aiohttp.StreamReader, most: int) -> bytes | None:
    """Read the body; None, without reading on, when it is larger than allowed."""
    if int(message.headers.get("Content-Length", "0")) > most:
        return None
    parts, size = [], 0
    while part := await content.readany():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unreachable(error: Exception, instance: Instance) -> Reply:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return unreachable(instance, socket.gaierror())
    return unreachable(instance, error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None)
