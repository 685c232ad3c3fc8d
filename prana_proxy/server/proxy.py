"""A proxy in threads of one process: its gateway, and an event loop for its connections."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import uvloop

from prana_proxy import supervised
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.gateway.gateway import Gateway
from prana_proxy.gateway.ledger import Ledger
from prana_proxy.server.backlog import Backlog
from prana_proxy.server.board import Board, Told
from prana_proxy.server.connections import Connections
from prana_proxy.server.handler import Handler
from prana_proxy.server.line import Line
from prana_proxy.server.tls import Tokens, server_context
from prana_proxy.supervised import Supervised, supervise
from schemas.errors import SetupError

_T = TypeVar("_T")
_LOOK_SECONDS = 1.0
_MOST_KNOCKING = 512  # connections that wait to be accepted


class Proxy:
    """A running proxy. Use it as a context manager, or `stop` it.

    listener: where clients come; it is closed with the proxy
    ledger, board: shared with the other processes of one proxy; None: its own

    Raises ConfigError for a clock, certificates or tokens that cannot be read.
    """

    def __init__(
        self,
        config: GatewayConfig,
        server: ServerConfig,
        listener: socket.socket,
        ledger: Ledger | None = None,
        board: Board | None = None,
    ) -> None:
        self.address = address_of(listener, server.host)
        with ExitStack() as opened:  # whatever fails, nothing stays open
            opened.callback(listener.close)
            context = None if server.tls is None else server_context(server.tls)
            tokens = None if server.tokens_file is None else Tokens(server.tokens_file)
            self.board = Board() if board is None else board
            if board is None:
                opened.callback(self.board.close)
            self.gateway = opened.enter_context(Gateway(config, ledger))
            self._loop = opened.enter_context(_LoopThread())
            own, backlog = self.board.own, Backlog(self.gateway, reports=self.board.process == 0)

            def counted(answering: int, waiting: int) -> None:
                own[Told.ANSWERING], own[Told.WAITING] = answering, waiting

            line = Line(server.workers, server.queue, counted)
            opened.callback(line.close)
            handler = Handler(self.gateway, lambda service: max(line.pause_ms(), backlog.pause_ms(service)))

            async def start() -> Connections:
                looking = Supervised("prana-backlog")
                self._looking = asyncio.ensure_future(supervise(looking, lambda: _look(looking, backlog, self.board)))
                return Connections(listener, server, handler, line, self.board, context, tokens)

            own[Told.CONFIG_OK] = 1.0
            own[Told.STARTS] += 1.0
            connections = self._loop.run(start())
            opened.callback(lambda: self._loop.run(connections.stop(server.stop_seconds)))
            self._opened = opened.pop_all()

    def stop(self) -> None:
        """Take no more calls, let those under way end within the configured time, close everything."""
        self._opened.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def start_proxy(config: GatewayConfig, server: ServerConfig = ServerConfig(port=0)) -> Proxy:  # noqa: B008  # frozen
    """Start a proxy in threads of this process, whatever `server.processes` says; it listens when this returns.

    Raises SetupError when the port is taken.
    """
    return Proxy(config, server, listen(server.host, server.port))


def listen(host: str, port: int) -> socket.socket:
    """Open a socket where clients may come. Raises SetupError when they cannot."""
    try:
        if not 0 <= port <= 65_535:
            raise OverflowError("a port is a number from 0 to 65535")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_MOST_KNOCKING)
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number and number > 0 else str(error)  # Python adds the address a second time
        raise SetupError.because(
            f"the Prana proxy cannot listen on {host}:{port}: {reason}", "choose another --port, or stop what uses it"
        ) from error


def address_of(listener: socket.socket, host: str) -> str:
    """Write where a socket listens, the real port also when a free one was asked for."""
    return f"{host}:{listener.getsockname()[1]}"


async def _look(looking: Supervised, backlog: Backlog, board: Board) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        board.background_reported(supervised.failures(), len(supervised.failing()))
        backlog.look(_LOOK_SECONDS)
        looking.works()


class _LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="prana-server", daemon=True)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do work on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
