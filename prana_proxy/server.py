"""The proxy's Thrift server: a thin shell over the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Self

import pyarrow as pa
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport, TTransportException

from prana_proxy.config import GatewayConfig
from prana_proxy.gateway import Gateway
from prana_proxy.wire import LARGEST_FRAME, LARGEST_PAYLOAD, from_ipc, protocol_factory, service_info, to_ipc
from schemas.errors import DataKeyError, DeloreanError, ServiceError, SetupError
from schemas.generated.Prana import Processor
from schemas.generated.ttypes import BadRequest, FetchRequest, FetchResponse, Overloaded, ServiceInfo
from schemas.services import Status

_log = logging.getLogger(__name__)
_MOST_CONNECTIONS = 256
_IDLE_SECONDS = 600.0  # after which a silent connection is closed; clients open another
_STOP_SECONDS = 10.0  # for calls in flight to end in
_RETRY_AFTER_MS = 200


class Handler:
    """Answers Thrift calls from a gateway, so many at a time; beyond that it tells callers, who would hang."""

    def __init__(self, gateway: Gateway, calls: int) -> None:
        self._gateway = gateway
        self._calls = calls
        self._in_flight = 0
        self._changed = threading.Condition()

    def services(self) -> list[ServiceInfo]:
        """List the services behind this proxy."""
        return [service_info(service) for service in self._gateway.services.values()]

    def fetch(self, request: FetchRequest) -> FetchResponse:
        """Give as many of the first contexts' answers as one frame holds."""
        with self._changed:
            if self._in_flight >= self._calls:
                raise _overloaded(f"{self._calls} calls are in flight")
            self._in_flight += 1
        try:
            return FetchResponse(self._answer(request))  # type: ignore[no-untyped-call]  # generated
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> None:
        """Wait for the calls in flight to end, but no longer than some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, seconds)

    def _answer(self, request: FetchRequest) -> bytes:
        if request.service_name is None or request.contexts is None or (request.budget_ms or 0) <= 0:
            raise _bad_request("a fetch needs service_name, contexts and budget_ms > 0")
        try:
            contexts = from_ipc(request.contexts)
        except (pa.ArrowException, OSError) as error:
            raise _bad_request("contexts are no Arrow IPC stream") from error
        if request.service_name not in self._gateway.services:
            raise _bad_request(str(ServiceError.unknown("service", request.service_name, self._gateway.services)))
        try:
            answers = self._gateway.fetch(request.service_name, contexts, timedelta(milliseconds=request.budget_ms))
        except DataKeyError as error:
            raise _bad_request(str(error)) from error
        except DeloreanError as error:  # ours, such as a clock that is gone: the caller learns why, so does the log
            _log.error("fetch from %s failed: %s", request.service_name, error)
            raise TApplicationException(TApplicationException.INTERNAL_ERROR, str(error)) from error
        return fitting(answers)


def fitting(answers: pa.RecordBatch, most: int = LARGEST_PAYLOAD) -> bytes:
    """Write the first answers, as many as fit; an answer that would not fit alone becomes invalid."""
    rows = answers.num_rows
    while True:
        data = to_ipc(answers.slice(0, rows))
        if len(data) <= most:
            return data
        if rows == 1:
            reason = f"the answer takes {len(data)} bytes of Arrow, more than a frame of {LARGEST_FRAME} holds"
            row = {"status": Status.INVALID.value, "captured_at": None, "reason": reason, "value": None}
            return to_ipc(pa.RecordBatch.from_pylist([row], schema=answers.schema))
        rows = min(rows - 1, max(1, int(rows * most / len(data) * 0.9)))


class Proxy:
    """A running proxy. Use it as a context manager, or `stop` it.

    address: "host:port", the real port also when 0 was asked for
    """

    def __init__(self, config: GatewayConfig, host: str, port: int, workers: int) -> None:
        self._protocols = protocol_factory()
        self._listener = _listen(host, port)
        try:
            self._handler = Handler(gateway := Gateway(config), workers)
        except BaseException:  # whatever it is, the port must be free again
            self._listener.close()
            raise
        self._gateway = gateway
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._processor = Processor(self._handler)  # type: ignore[no-untyped-call]  # generated
        self._threads = ThreadPoolExecutor(_MOST_CONNECTIONS, thread_name_prefix="prana")
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._accepting = threading.Thread(target=self._accept, name="prana-accept", daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Take no more calls, let those in flight end within 10 s, close everything."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._accepting.join()
        deadline = time.monotonic() + _STOP_SECONDS
        self._handler.wait_until_idle(_STOP_SECONDS)
        self._shut_all(socket.SHUT_RD)  # nobody's next call is read; answers being written still arrive
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)
        self._shut_all(socket.SHUT_RDWR)
        self._gateway.close()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _shut_all(self, how: int) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(how)  # wakes the thread that reads it

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:  # such as no file handles left: others' connections go on
                _log.error("cannot accept a connection: %s", error.strerror)
                time.sleep(0.1)
                continue
            with self._lock:
                room = len(self._open) < _MOST_CONNECTIONS
                if room:
                    self._open.add(connection)
            if room:
                self._threads.submit(self._serve, connection)
            else:
                _log.warning("refused a connection: %d are open", _MOST_CONNECTIONS)
                connection.close()
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one client's calls until it goes, is silent for long, or sends what is not Thrift."""
        connection.settimeout(_IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = TSocket()
        raw.setHandle(connection)
        protocol = self._protocols.getProtocol(TFramedTransport(raw, LARGEST_FRAME))
        try:
            while not self._stopping.is_set():
                self._processor.process(protocol, protocol)  # type: ignore[no-untyped-call]  # generated
        except TTransportException:
            pass  # it hung up, or the frame was too large
        except (TProtocolException, TypeError, ValueError, EOFError, OSError, RecursionError, MemoryError) as error:
            # All that the C decoder raises for malformed bytes; they end this connection only.
            _log.warning("closed a connection: malformed call (%s)", error.__class__.__name__)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def start_proxy(config: GatewayConfig, host: str = "127.0.0.1", port: int = 0, workers: int = 32) -> Proxy:
    """Start a proxy in threads of this process; it listens when this returns.

    workers: fetches at a time

    Raises SetupError when the port is taken.
    """
    return Proxy(config, host, port, workers)


def serve(config: GatewayConfig, host: str = "127.0.0.1", port: int = 9090, workers: int = 32) -> None:
    """Run a proxy until SIGTERM or SIGINT; call it from the main thread. Prints one line when it is ready.

    Raises SetupError when the port is taken.
    """
    with start_proxy(config, host, port, workers) as proxy:
        names = ", ".join(service.service.name for service in config.services)
        asyncio.run(_until_told_to_stop(f"Prana proxy ready on {proxy.address}: {names}\n"))


async def _until_told_to_stop(ready: str) -> None:
    # By an event loop, which wakes whichever thread the signal reaches: the main one may wait on in a lock.
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(ready)
    sys.stdout.flush()
    await stop.wait()


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= 65_535:
            raise OverflowError("a port is a number from 0 to 65535")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(error)  # Python adds the address a second time
        raise SetupError.because(
            f"the Prana proxy cannot listen on {host}:{port}: {reason}", "choose another --port, or stop what uses it"
        ) from error
    listener.settimeout(0.2)  # how soon `stop` is seen
    return listener


def _bad_request(message: str) -> BadRequest:
    return BadRequest(message)  # type: ignore[no-untyped-call]  # generated


def _overloaded(message: str) -> Overloaded:
    return Overloaded(message, _RETRY_AFTER_MS)  # type: ignore[no-untyped-call]  # generated
