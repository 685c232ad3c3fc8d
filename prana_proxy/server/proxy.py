"""A proxy in one process: its connections and its gateway on one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

from prana_proxy import supervised
from prana_proxy.config.reload import follow
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.config.services_file import ProxyConfig
from prana_proxy.gateway.async_gateway import AsyncGateway
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.shared_counters import SharedCounters
from prana_proxy.loop_thread import LoopThread
from prana_proxy.server.authentication import AuthTokens, server_context
from prana_proxy.server.backpressure import Backpressure
from prana_proxy.server.call_queue import CallQueue
from prana_proxy.server.fetch_handler import FetchHandler
from prana_proxy.server.thrift_server import ThriftServer
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from prana_proxy.supervised import Supervised, supervise
from schemas.errors import SetupError

_MEASURE_SECONDS = 1.0
_BACKLOG = 512  # connections that wait to be accepted


class Proxy:
    """A running proxy on the current event loop; `stop` it.

    address: where it listens; gateway, worker_status: what it serves with
    """

    def __init__(
        self, address: str, gateway: AsyncGateway, worker_status: WorkerStatus, opened: AsyncExitStack
    ) -> None:
        self.address, self.gateway, self.worker_status, self._opened = address, gateway, worker_status, opened
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def start(
        cls,
        config: GatewayConfig,
        server: ServerConfig,
        listener: socket.socket,
        counters: SharedCounters | None = None,
        worker_status: WorkerStatus | None = None,
    ) -> Self:
        """Start a proxy.

        listener: where clients connect; it is closed with the proxy
        counters, worker_status: shared with the other processes of one proxy; None: its own

        Raises ConfigError for a clock, certificates or tokens that cannot be read.
        """
        async with AsyncExitStack() as opened:  # whatever fails, nothing stays open
            opened.callback(listener.close)
            context = None if server.tls is None else server_context(server.tls)
            tokens = None if server.tokens_file is None else AuthTokens(server.tokens_file)
            if worker_status is None:
                worker_status = WorkerStatus()
                opened.callback(worker_status.close)
            gateway = await AsyncGateway.open(config, counters)
            opened.push_async_callback(gateway.close)
            own, backpressure = worker_status.own, Backpressure(gateway, logs_breakers=worker_status.process == 0)

            def report(answering: int, waiting: int) -> None:
                own[WorkerField.ANSWERING], own[WorkerField.WAITING] = answering, waiting

            queue = CallQueue(server.workers, server.queue, report)
            handler = FetchHandler(gateway, lambda service: max(queue.pause_ms(), backpressure.pause_ms(service)))
            opened.push_async_callback(_cancel, asyncio.ensure_future(_measure_regularly(backpressure, worker_status)))
            own[WorkerField.CONFIG_OK] = 1.0
            own[WorkerField.STARTS] += 1.0
            connections = ThriftServer(listener, server, handler, queue, worker_status, context, tokens)
            opened.push_async_callback(connections.stop, server.stop_seconds)
            return cls(address_of(listener, server.host), gateway, worker_status, opened.pop_all())

    async def stop(self) -> None:
        """Accept no more calls, let those in progress end within the configured time, close everything."""
        await self._opened.aclose()

    def reconfigure(self, config: GatewayConfig) -> None:
        """Serve by another configuration from now on; to be called from another thread than the event loop's."""
        asyncio.run_coroutine_threadsafe(self.gateway.reconfigure(config), self._loop).result()


@asynccontextmanager
async def serving(
    path: Path,
    config: ProxyConfig,
    server: ServerConfig,
    listener: socket.socket,
    counters: SharedCounters,
    worker_status: WorkerStatus,
) -> AsyncIterator[Proxy]:
    """Run a proxy that follows the services.toml at a path. Raises as `Proxy.start` does.

    config: what the file contains; server: its `[server]` with what overrides it; the rest as for `Proxy.start`
    """
    proxy = await Proxy.start(config.gateway, server, listener, counters, worker_status)
    following = ExitStack()
    try:
        following.enter_context(follow(path, proxy, started=config, on_change=worker_status.report_config))
        yield proxy
    finally:
        # In a thread: the following one may be waiting for this event loop.
        await asyncio.to_thread(following.close)
        await proxy.stop()


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port. Raises SetupError when that is not possible."""
    try:
        if not 0 <= port <= 65_535:
            raise OverflowError("a port is a number from 0 to 65535")
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = addresses[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(error)  # Python adds the address a second time
        raise SetupError.because(
            f"the Prana proxy cannot listen on {host}:{port}: {reason}",
            "choose another --port, or stop the program that uses it",
        ) from error


def address_of(listener: socket.socket, host: str) -> str:
    """Return where a socket listens, with the actual port if a free one was requested."""
    return f"{host}:{listener.getsockname()[1]}"


async def _measure_regularly(backpressure: Backpressure, worker_status: WorkerStatus) -> None:
    work = Supervised("prana-backpressure")

    async def measure() -> None:
        while True:
            await asyncio.sleep(_MEASURE_SECONDS)
            worker_status.report_background(supervised.failures(), len(supervised.failing()))
            backpressure.measure(_MEASURE_SECONDS)
            work.works()

    await supervise(work, measure)


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class ProxyThread:
    """A running proxy on an event loop in a thread. Use it as a context manager, or `stop` it.

    config, server: what it serves, and how, whatever `server.processes` is

    Raises SetupError when the port is taken, and ConfigError as `Proxy.start` does.
    """

    def __init__(self, config: GatewayConfig, server: ServerConfig) -> None:
        self._server = server
        self._thread = LoopThread("prana-proxy")
        try:
            self._proxy = self._thread.run(Proxy.start(config, server, listen(server.host, server.port)))
        except BaseException:  # also an interrupt: the thread must not stay behind
            self._thread.close()
            raise
        self.address, self.gateway, self.worker_status = (
            self._proxy.address,
            self._proxy.gateway,
            self._proxy.worker_status,
        )

    def stop(self) -> None:
        """Stop it as `Proxy.stop` does."""
        if not self._thread.closed:
            self._thread.run(self._proxy.stop())
            self._thread.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def start_proxy(config: GatewayConfig, server: ServerConfig = ServerConfig(port=0)) -> ProxyThread:  # noqa: B008  # frozen
    """Start a proxy in a thread of this process; it listens when this returns. Raises as `ProxyThread` does."""
    return ProxyThread(config, server)
