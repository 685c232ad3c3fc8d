"""One process of a proxy, started by its supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.config.services_file import load_proxy_config
from prana_proxy.events import LogFormat, log_to_stderr
from prana_proxy.gateway.shared_counters import SharedCounters
from prana_proxy.server.proxy import serving
from prana_proxy.server.signals import stop_on_signals
from prana_proxy.server.worker_status import WorkerStatus
from schemas.errors import DeloreanError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerStart:
    """What a supervisor sends to a process that it starts.

    number: index of the process; parent: the supervisor's process id
    listener, counters, worker_status: inherited file descriptors
    path, content: of the services.toml; server: its `[server]`, overridden by the command line
    """

    number: int
    parent: int
    listener: int
    counters: int
    worker_status: int
    path: str
    content: str
    server: ServerConfig
    log: LogFormat


def main() -> None:
    """Serve until SIGTERM, or until the supervisor has ended."""
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerStart)
    _end_with(start.parent)
    log_to_stderr(start.log, process=start.number)
    try:
        uvloop.run(_serve(start))
    except DeloreanError as error:
        sys.exit(str(error))


async def _serve(start: WorkerStart) -> None:
    path, server = Path(start.path), start.server
    config = load_proxy_config(path, start.content.encode())
    stopping = stop_on_signals()
    async with AsyncExitStack() as opened:
        counters = SharedCounters(server.processes, start.number, start.counters)
        worker_status = WorkerStatus(server.processes, start.number, start.worker_status)
        opened.callback(counters.close)
        opened.callback(worker_status.close)
        listener = socket.socket(fileno=start.listener)
        await opened.enter_async_context(serving(path, config, server, listener, counters, worker_status))
        await stopping.wait()


def _end_with(parent: int) -> None:
    """End this process with its parent, even if that is killed; exit now if the parent has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
