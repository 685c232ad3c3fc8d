"""Starts the live scorer, or explains in one line why it cannot start."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path

from delorean.ab_tests.declaration import AbTest
from delorean.packaging.package import ModelPackage, load_package
from delorean.registry.registry import PREFIX, Registry
from delorean.serving.app import create_app
from delorean.serving.limits import limits_here
from delorean.serving.open_ranker import open_ranker
from delorean.serving.ranker import DEFAULT_BUDGET
from delorean.serving.served_tests import load_tests
from delorean.serving.server import ScorerServer
from encoders.feature_model import LIBRARY
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
    modules: Sequence[str] = (LIBRARY,),
    allow: Collection[str] = (),
    tests: Sequence[AbTest] = (),
    log_exposures: bool = False,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve a package until SIGTERM or Ctrl-C; requests in progress are answered before it returns.

    services_config: the services.toml of the gateway. It is followed: changes that the model allows apply at once
    index_uri, storage_uri: where versions of global elements are published
    port: 0: any free port
    budget: for all services together; refresh: the interval of looking for new versions
    modules: that the package's encoders may be imported from
    allow: fingerprints of encoders whose source in the package may be executed, see `load_package`
    tests: whose cells answer the requests of their units, each with its package
    log_exposures: whether the storage gets a log of what is shown; where there are tests it always does
    announce: called with the URL when the scorer is warm and begins to serve

    Raises SetupError for a port in use, PackageError, GoldenRowsError or FingerprintError for a package that cannot be
    trusted, ConfigError for services that are not the model's, AbTestError for tests that cannot be served together.
    """
    with _listen(host, port) as listener:
        storage = open_storage(storage_uri)

        def load(name: str | Path) -> ModelPackage:
            if isinstance(name, str) and name.startswith(PREFIX):
                return Registry(storage, modules, allow).load(name)
            return load_package(name, modules=modules, allow=allow)

        package, packaged = load(package_path), load_tests(tests, load)
        with (
            open_index(index_uri) as index,
            open_ranker(
                package,
                services_config,
                index,
                storage,
                budget=budget,
                refresh=refresh,
                tests=packaged,
                log_exposures=log_exposures,
            ) as ranker,
        ):
            interruptibly(ranker.warm_up)
            limits = limits_here()
            server = ScorerServer(create_app(ranker, limits), limits)
            if announce is not None:
                announce(f"http://{host}:{listener.getsockname()[1]}")
            _run(server, listener)


def interruptibly(work: Callable[[], None]) -> None:
    """Run a function so that Ctrl-C ends the wait for it: compiled encoders and models do not check for signals."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # it is raised in the caller's thread
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, name="warm-up", daemon=True).start()
    if (error := outcome.get()) is not None:
        raise error


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise SetupError.because(f"cannot listen on {host}:{port}: invalid port", "use one from 1 to 65535")
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        # Errors of unknown hosts have negative numbers.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise SetupError.because(
            f"cannot listen on {host}:{port}: {reason}", "choose a free one with --port"
        ) from error
    # Connections inherit this. Responses are written in two parts; without it, the second waits for the caller's
    # acknowledgement of the first, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _run(server: ScorerServer, listener: socket.socket) -> None:
    """Run until a signal. uvicorn ends gracefully and then raises the signal again, which must not end this process."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: None) if in_main else None
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
