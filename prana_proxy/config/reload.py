"""Applies changes of services.toml: valid ones at once; an invalid one is rejected, and the old one stays."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from watchfiles import watch

from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.config.services_file import ProxyConfig, load_gateway_config, load_proxy_config
from prana_proxy.config.toml_file import content_of
from prana_proxy.events import log_event
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.supervised import Supervised, SupervisedThread
from schemas.errors import ConfigError, DeloreanError, SetupError

_log = logging.getLogger(__name__)
_POLL_MS = 1_000  # poll interval where the system reports no changes, as on some network disks
_SETTLE_SECONDS = 0.1  # in which the file must not change: some editors write it in parts
_POLL_SECONDS = 1.0  # poll interval while the system cannot watch the file


class Reconfigurable(Protocol):
    """A gateway, or a proxy."""

    def reconfigure(self, config: GatewayConfig) -> None:
        """Serve by another configuration from now on. Raises DeloreanError to reject it."""


Apply = Callable[[bytes], None]
"""Receives the file's content; raises a DeloreanError to reject it."""
OnResult = Callable[[str | None], object]
"""Called with the reason why the file's content was rejected, or None when it was applied."""


@contextmanager
def follow(
    path: str | Path,
    gateway: Reconfigurable,
    *,
    started: ProxyConfig | None = None,
    allowed: Callable[[GatewayConfig], None] | None = None,
    on_change: Callable[[bool], None] | None = None,
) -> Iterator[None]:
    """Apply each change of a services.toml to a gateway, in a thread, until the context ends.

    started: the configuration that a proxy was started with; None: the gateway is not a proxy's, so `[server]` is
        ignored
    allowed: raises a DeloreanError for a configuration that must not be applied
    on_change: called after each change with whether it was applied; the log has the reasons
    """
    current = started

    def apply(content: bytes) -> None:
        nonlocal current
        before, new = current, _load(path, content, started is not None)
        if allowed is not None:
            allowed(new.gateway)
        gateway.reconfigure(new.gateway)
        current = new
        if before is not None and new != before:
            log_event(_log, logging.INFO, "config_applied", services=len(new.gateway.services))
            _log_needed_restart(before, new)

    def on_result(problem: str | None) -> None:
        if problem is not None:
            log_event(_log, logging.ERROR, "config_refused", reason=problem)
        if on_change is not None:
            on_change(problem is None)

    with following(path, apply, on_result):
        yield


@contextmanager
def following(path: str | Path, apply: Apply, on_result: OnResult) -> Iterator[None]:
    """Pass a file's content to a function, now and after each change, in a thread, until the context ends."""
    with SupervisedThread("prana-config", _Follower(Path(path), apply, on_result).run):
        yield


def _load(path: str | Path, content: bytes, with_server: bool) -> ProxyConfig:
    if with_server:
        return load_proxy_config(path, content)
    return ProxyConfig(load_gateway_config(path, content), ServerConfig())


def _log_needed_restart(before: ProxyConfig, new: ProxyConfig) -> None:
    changed = {"[server]": new.server != before.server, "clock": new.gateway.clock != before.gateway.clock}
    for part in (part for part, has_changed in changed.items() if has_changed):
        log_event(_log, logging.WARNING, "config_needs_restart", part=part)


def _cannot_watch(folders: list[Path], error: BaseException) -> SetupError:
    """Build the error for folders that the system cannot watch, or that were deleted."""
    reason = str(error) or type(error).__name__
    problem = SetupError.because(
        f"{' and '.join(map(str, folders))} cannot be watched, so services.toml is read every second: {reason}",
        "raise fs.inotify.max_user_instances if too many files are open",
    )
    problem.__cause__ = error
    return problem


class _Follower:
    def __init__(self, path: Path, apply: Apply, on_result: OnResult) -> None:
        self._path, self._apply, self._on_result = path, apply, on_result
        self._seen: bytes | str | None = None  # the content read last, or why it could not be read

    def run(self, thread: SupervisedThread) -> None:
        """Read the file now and at every change, until the thread is stopped."""
        self._read_and_apply()
        thread.works()
        watching = Supervised("prana-config-watch")
        watching.begin()
        try:
            for _ in self._changes(watching, thread.stopping):
                self._read_and_apply()
        finally:
            watching.end()

    def _changes(self, watching: Supervised, stopping: threading.Event) -> Iterator[None]:
        """Yield when the file may have changed, and every second while the system cannot watch it."""
        while not stopping.is_set():
            folders = self._folders()
            try:
                for _ in watch(
                    *folders,
                    stop_event=stopping,
                    debounce=200,
                    rust_timeout=_POLL_MS,
                    yield_on_timeout=True,
                    recursive=False,
                    raise_interrupt=False,
                ):
                    watching.works()
                    yield
                    if self._folders() != folders:
                        break
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001  # no inotify instances left, a deleted folder, a panic
                pause = watching.failed(_cannot_watch(folders, error))
                for _ in range(math.ceil(pause / _POLL_SECONDS)):
                    if stopping.wait(_POLL_SECONDS):
                        return
                    yield

    def _folders(self) -> list[Path]:
        """Return the folders in which a change shows: the file's, and that of the target of links."""
        return sorted({self._path.absolute().parent, self._path.resolve().parent})

    def _read_and_apply(self) -> None:
        if (content := self._read()) == self._seen:
            return
        time.sleep(_SETTLE_SECONDS)
        if content != self._read():
            return  # it is read again soon
        self._on_result(content if isinstance(content, str) else self._try(content))
        self._seen = content  # only now: content that a defect has kept from applying is tried again

    def _try(self, content: bytes) -> str | None:
        """Apply the content, or return why not."""
        try:
            self._apply(content)
        except DeloreanError as error:
            return str(error)
        return None

    def _read(self) -> bytes | str:
        try:
            return content_of(self._path)
        except ConfigError as error:
            return str(error)
