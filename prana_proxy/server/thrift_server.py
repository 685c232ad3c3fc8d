"""The Thrift server: accepts connections, reads their calls one by one and answers them."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from thrift.Thrift import TApplicationException

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.events import Event, ThrottledLog
from prana_proxy.server.authentication import AuthTokens
from prana_proxy.server.call_queue import CallQueue
from prana_proxy.server.fetch_handler import FetchHandler
from prana_proxy.server.frames import FrameConnection, FrameMemory, MalformedError
from prana_proxy.server.messages import Message
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from prana_proxy.supervised import Supervised, supervise
from schemas.generated.ttypes import Denied, Overloaded

_log = logging.getLogger(__name__)
_AUTHENTICATION_SECONDS = 30.0  # for a handshake and a token
_TLS_SHUTDOWN_SECONDS = 0.5  # for a client to acknowledge that its connection is closed
_YIELD_SECONDS = 0.003  # in which a process with fewer connections may take the next
_SLOW_SECONDS = 30.0
_REPORT_SECONDS = 10.0


@dataclass(eq=False)
class _Client:
    """A client's connection.

    answering: whether a call of it is in progress; authenticated: whether it may call
    denied: its token was wrong, so the connection ends
    """

    peer: str
    frames: FrameConnection = field(default_factory=FrameConnection)
    answering: bool = False
    authenticated: bool = False
    denied: bool = False


class ThriftServer:
    """All connections of one process. Belongs to one event loop.

    listener: a socket that listens; other processes may accept from it too
    context: for TLS; None: connections are plain
    tokens: of which a client must present one; None: clients need none
    """

    def __init__(
        self,
        listener: socket.socket,
        config: ServerConfig,
        handler: FetchHandler,
        queue: CallQueue,
        worker_status: WorkerStatus,
        context: ssl.SSLContext | None,
        tokens: AuthTokens | None,
    ) -> None:
        self._listener, self._config, self._handler, self._queue = listener, config, handler, queue
        self._own, self._worker_status, self._tokens = worker_status.own, worker_status, tokens
        self._tls: dict[str, Any] = {"ssl": context, "ssl_shutdown_timeout": _TLS_SHUTDOWN_SECONDS} if context else {}
        self._memory = FrameMemory()
        self._open: dict[asyncio.Task[None], _Client] = {}
        self._throttled = ThrottledLog(_log, _REPORT_SECONDS)
        self._stopping = False
        listener.setblocking(False)
        self._supervised = Supervised("prana-accept")
        self._accepting = asyncio.get_running_loop().create_task(supervise(self._supervised, self._accept))
        self._own[WorkerField.READY] = 1.0

    async def stop(self, seconds: float) -> None:
        """Accept no more, let calls in progress end within some seconds, and close everything."""
        self._stopping = True
        self._own[WorkerField.READY] = 0.0
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for task, connection in self._open.items():
            if not connection.answering:
                task.cancel()
        if tasks := list(self._open):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                await self._wait_for_client()
                if self._worker_status.excess > 0:
                    await asyncio.sleep(_YIELD_SECONDS)
                client, address = self._listener.accept()
            except BlockingIOError:  # another process was faster
                continue
            except OSError as error:  # such as no file handles left: open connections go on
                self._throttled.log_event(logging.ERROR, "cannot_accept", reason=error.strerror)
                await asyncio.sleep(0.1)
                continue
            if len(self._open) >= self._config.max_connections:
                self._own[WorkerField.TOO_MANY] += 1.0
                self._throttled.log_event(logging.WARNING, "connection_refused", peer=address[0], open=len(self._open))
                client.close()
                continue
            self._supervised.works()
            client.setblocking(False)
            connection = _Client(address[0], authenticated=self._tokens is None)
            task = asyncio.get_running_loop().create_task(self._serve(client, connection))
            self._open[task] = connection
            task.add_done_callback(self._ended)
            self._own[WorkerField.CONNECTIONS] = len(self._open)

    async def _wait_for_client(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._listener)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._open.pop(task)
        self._own[WorkerField.CONNECTIONS] = len(self._open)
        if not task.cancelled() and (error := task.exception()) is not None:  # a defect: it ends only this connection
            _log.error(Event("connection_failed", {"peer": connection.peer}), exc_info=error)

    async def _serve(self, client: socket.socket, connection: _Client) -> None:
        """Answer a client's calls until it hangs up, is idle for long, or sends something malformed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_AUTHENTICATION_SECONDS):
                await loop.connect_accepted_socket(lambda: connection.frames, client, **self._tls)
            while not (self._stopping or connection.denied):
                await self._next_call(connection)
        except MalformedError as error:
            self._own[WorkerField.MALFORMED] += 1.0
            self._throttled.log_event(logging.WARNING, "malformed_call", peer=connection.peer, reason=str(error))
        except ssl.SSLError as error:
            self._own[WorkerField.DENIED] += 1.0
            self._throttled.log_event(logging.WARNING, "handshake_failed", peer=connection.peer, reason=error.reason)
        except (OSError, TimeoutError):
            pass  # it hung up, or is idle
        finally:
            await connection.frames.close()

    async def _next_call(self, connection: _Client) -> None:
        frames, idle_seconds = connection.frames, self._config.idle_seconds
        if not connection.authenticated:
            idle_seconds = min(idle_seconds, _AUTHENTICATION_SECONDS)
        size = await frames.next_size(idle_seconds)
        async with self._memory.hold(frames, size):
            frame = await frames.read(size)
            arrived, connection.answering = monotonic(), True
            self._own[WorkerField.CALLS] += 1.0
            await frames.send(await self._answer(connection, Message.read(frame), arrived))
            connection.answering = False
        if (seconds := monotonic() - arrived) > _SLOW_SECONDS:
            self._throttled.log_event(
                logging.INFO, "slow_call", peer=connection.peer, seconds=round(seconds, 3), bytes=size
            )

    async def _answer(self, connection: _Client, message: Message, arrived: float) -> bytes:
        try:
            match message.name:
                case "authenticate":
                    return self._authenticate(connection, message)
                case "services" | "fetch" if not connection.authenticated:
                    return self._denied(message, "authenticate with a token first", connection)
                case "services":
                    message.arguments()
                    return message.answer(self._handler.services())
                case "fetch":
                    return await self._queue.run(lambda: self._handler.fetch(message, arrived), connection.frames.lost)
                case _:
                    kind = TApplicationException.UNKNOWN_METHOD
                    return message.refusal(TApplicationException(kind, "the proxy has no such method"))
        except Overloaded as error:
            self._own[WorkerField.OVERLOADED] += 1.0
            self._throttled.log_event(logging.WARNING, "overloaded", peer=connection.peer, reason=error.message)
            return message.refusal(error)

    def _authenticate(self, connection: _Client, message: Message) -> bytes:
        token = message.arguments().token
        if self._tokens is None or (token is not None and self._tokens.accepts(token)):
            connection.authenticated = True
            return message.answer()
        connection.denied = True
        return self._denied(message, "the token is not one of the proxy's", connection)

    def _denied(self, message: Message, reason: str, connection: _Client) -> bytes:
        self._own[WorkerField.DENIED] += 1.0
        self._throttled.log_event(logging.WARNING, "denied", peer=connection.peer, reason=reason)
        return message.refusal(Denied(reason))  # type: ignore[no-untyped-call]  # generated
