"""Runs a proxy until a signal stops it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.config.services_file import ProxyConfig, load_proxy_config
from prana_proxy.config.toml_file import content_of
from prana_proxy.events import LogFormat, log_event, log_to_stderr
from prana_proxy.gateway.shared_counters import SharedCounters
from prana_proxy.server.monitoring import http_port
from prana_proxy.server.proxy import listen, serving
from prana_proxy.server.signals import stop_on_signals
from prana_proxy.server.supervisor import Supervisor
from prana_proxy.server.worker_status import WorkerStatus

_log = logging.getLogger(__name__)


def serve(path: str | Path, settings: Mapping[str, Any] | None = None, log: LogFormat = "text") -> None:
    """Run a proxy until SIGTERM or SIGINT; call it from the main thread. Prints one line when it is ready.

    path: of the services.toml, whose changes are applied while it runs
    settings: fields of `ServerConfig` that override the file
    log: format of the events on stderr

    Raises ConfigError for an invalid file, and SetupError when a port is taken.
    """
    log_to_stderr(log)
    content = content_of(path)
    config = load_proxy_config(path, content)
    server = replace(config.server, **(settings or {}))
    uvloop.run(_serve(Path(path), content, config, server, log))
    log_event(_log, logging.INFO, "stopped")


async def _serve(path: Path, content: bytes, config: ProxyConfig, server: ServerConfig, log: LogFormat) -> None:
    async with AsyncExitStack() as opened:
        counters, worker_status = SharedCounters(server.processes), WorkerStatus(server.processes)
        opened.callback(counters.close)
        opened.callback(worker_status.close)
        if server.http_port is not None:
            pages = http_port(server.host, server.http_port, counters, worker_status, supervises=server.processes > 1)
            address = await opened.enter_async_context(pages)
            log_event(_log, logging.INFO, "http_listening", address=address)
        if server.processes > 1:
            supervisor = await opened.enter_async_context(
                Supervisor(path, content, server, counters, worker_status, log)
            )
            stopping, addresses = stop_on_signals(supervisor.kill), supervisor.addresses
        else:
            stopping = stop_on_signals()
            listener = listen(server.host, server.port)
            proxy = await opened.enter_async_context(serving(path, config, server, listener, counters, worker_status))
            addresses = [proxy.address]
        _announce(config, addresses)
        await stopping.wait()
        log_event(_log, logging.INFO, "stopping", within_seconds=server.stop_seconds)


def _announce(config: ProxyConfig, addresses: Sequence[str]) -> None:
    names = ", ".join(service.service.name for service in config.gateway.services)
    log_event(_log, logging.INFO, "ready", addresses=",".join(addresses), services=len(config.gateway.services))
    sys.stdout.write(f"Prana proxy ready on {','.join(addresses)}: {names}\n")
    sys.stdout.flush()
