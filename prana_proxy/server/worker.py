"""One of the processes of a proxy: its supervisor tells it how to start."""

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
    """How a process starts.

    number: which of the processes it is; parent: the supervisor's id
    listener, counters, worker_status: file descriptors that it inherits
    path, content: of the services.toml; server: what holds of it, and of the command line
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
    """Serve until told to stop, or until the supervisor is gone."""
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
    """Ask Linux to end this process with its parent, even one that is killed; one that is gone is seen by its id."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
