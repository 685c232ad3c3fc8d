"""Starts the live scorer, or says in one line why it does not."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from delorean.packaging.package import ModelPackage, load_package
from delorean.serving.app import create_app
from delorean.serving.global_versions import GlobalVersions
from delorean.serving.limits import limits_here
from delorean.serving.ranker import DEFAULT_BUDGET, Ranker, global_elements, refuse_other_services
from delorean.serving.server import ScorerServer
from prana_proxy.clock import open_clock
from prana_proxy.config.reload import follow
from prana_proxy.config.services_file import load_gateway_config
from prana_proxy.gateway import Gateway
from prana_proxy.gateway.config import GatewayConfig
from schemas.errors import SetupError
from snapshotter.index import open_index
from snapshotter.storage import open_storage


def serve(
    package_path: str | Path,
    services_config: str | Path,
    index_uri: str,
    storage_uri: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    budget: timedelta = DEFAULT_BUDGET,
    refresh: timedelta = timedelta(seconds=30),
    modules: Sequence[str] = ("encoders.library",),
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve a package until SIGTERM or Ctrl-C; requests under way are answered before it returns.

    services_config: the services.toml of the gateway, which is followed: a change that the model allows applies
    index_uri, storage_uri: where versions of global elements are published
    port: 0 takes a free one
    budget: for all services together; refresh: how often new versions are looked for
    announce: told the URL when everything is warm and it begins

    Raises SetupError for a port in use, PackageError, GoldenRowsError or FingerprintError for a package that cannot be
    trusted, ConfigError for services that are not the model's.
    """
    with ExitStack() as opened:
        listener = opened.enter_context(_listen(host, port))
        ranker = _open(
            opened,
            load_package(package_path, modules=modules),
            services_config,
            (index_uri, storage_uri),
            (budget, refresh),
        )
        interruptibly(ranker.warm_up)
        limits = limits_here()
        server = ScorerServer(create_app(ranker, limits), limits)
        if announce is not None:
            announce(f"http://{host}:{listener.getsockname()[1]}")
        _run(server, listener)


def interruptibly(work: Callable[[], None]) -> None:
    """Run work so that Ctrl-C ends the wait for it: machine code of encoders or models does not look for signals."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # it is raised where the work was asked for
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, name="warm-up", daemon=True).start()
    if (error := outcome.get()) is not None:
        raise error


def _open(
    opened: ExitStack,
    package: ModelPackage,
    services_config: str | Path,
    uris: tuple[str, str],
    times: tuple[timedelta, timedelta],
) -> Ranker:
    services = load_gateway_config(services_config)
    clock = open_clock(services.clock)
    budget, refresh = times
    index = opened.enter_context(open_index(uris[0]))
    elements = list(global_elements(package).values())
    versions = opened.enter_context(
        GlobalVersions(elements, index, open_storage(uris[1]), clock, refresh, rules=package.rules)
    )
    gateway = opened.enter_context(Gateway(services))
    ranker = Ranker(package, gateway, versions, clock, budget)

    def allowed(config: GatewayConfig) -> None:
        refuse_other_services(package, {service.service.name: service.service for service in config.services})

    opened.enter_context(follow(services_config, gateway, allowed=allowed))
    return ranker


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise SetupError.because(f"cannot listen on {host}:{port}: no such port", "give one from 1 to 65535")
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        # Those of unknown hosts have negative numbers.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise SetupError.because(f"cannot listen on {host}:{port}: {reason}", "give a free one with --port") from error
    # Connections inherit it. Answers are written in two parts, of which the second must not wait for the caller's
    # acknowledgement of the first: that is 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _run(server: ScorerServer, listener: socket.socket) -> None:
    """Run until a signal. uvicorn ends gracefully and then raises the signal again, which must not kill us untidied."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: None) if in_main else None
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
