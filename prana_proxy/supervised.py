"""Background work that is restarted after a failure, with back-off, and reports its problem.

    with SupervisedThread.every(30.0, "refresh", refresh) as refreshing:
        ...
        refreshing.problem  # None, or what is wrong and since when

All running background work of a process is listed: `problems()` and `failures()` are for health and metrics.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Self

from prana_proxy.events import Event, LogValue, log_event
from schemas.errors import DeloreanError

_log = logging.getLogger(__name__)
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_running: set[Supervised] = set()
_lock = threading.Lock()  # guards the two below
_failures_before = 0  # of work that has ended


def problems() -> list[str]:
    """List the problems of this process's background work, each after the work's name."""
    with _lock:
        return sorted(f"{one.name}: {one.problem}" for one in _running if one.problem is not None)


def failing() -> list[str]:
    """List the names of this process's background work that is failing now."""
    with _lock:
        return sorted(one.name for one in _running if one.problem is not None)


def failures() -> int:
    """Count how often this process's background work has failed."""
    with _lock:
        return _failures_before + sum(one.failures for one in _running)


class Supervised:
    """The state of one piece of background work.

    failures: so far; problem: a sentence on what is wrong and since when; None while it works
    """

    def __init__(self, name: str) -> None:
        self.name, self.failures = name, 0
        self.problem: str | None = None
        self._in_a_row = 0
        self._since = ""

    def begin(self) -> None:
        """Add it to the process's background work."""
        with _lock:
            _running.add(self)

    def end(self) -> None:
        """Remove it from the process's background work; its failures stay counted."""
        global _failures_before  # of the process, as its metrics are
        with _lock:
            if self in _running:
                _running.remove(self)
                _failures_before += self.failures

    def works(self) -> None:
        """Record that the work succeeds."""
        if self.problem is not None:
            log_event(_log, logging.INFO, "background_recovered", work=self.name, failures=self._in_a_row)
        self.problem, self._in_a_row = None, 0

    def failed(self, error: BaseException) -> float:
        """Record a failure; return the seconds after which to try again: 1, 2, 4 … 60."""
        if not self._in_a_row:
            self._since = datetime.now(UTC).isoformat(timespec="seconds")
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._in_a_row, 16), _LONGEST_PAUSE)
        self._in_a_row += 1
        self.failures += 1
        # Only our own errors are known to contain no secrets, such as a password in an address.
        reason = str(error) if isinstance(error, DeloreanError) else type(error).__name__
        self.problem = f"{reason}, since {self._since}"
        fields: dict[str, LogValue] = {
            "work": self.name,
            "reason": reason,
            "in_a_row": self._in_a_row,
            "again_in_seconds": pause,
        }
        _log.error(Event("background_failed", fields), exc_info=error)
        return pause


class SupervisedThread(Supervised):
    """Work in a thread of its own, until the context ends or `close` is called.

    work: receives this object; calls `works` when it succeeds and returns once `stopping` is set. Any exception, and
        returning earlier, is a failure, after which it is called again
    """

    def __init__(self, name: str, work: Callable[[SupervisedThread], None]) -> None:
        super().__init__(name)
        self.stopping = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @classmethod
    def every(cls, seconds: float, name: str, step: Callable[[], object]) -> SupervisedThread:
        """Build a thread that does a step every so many seconds, the first time after the first interval."""

        def work(thread: SupervisedThread) -> None:
            pause = seconds
            while not thread.stopping.wait(pause):
                try:
                    step()
                except Exception as error:  # noqa: BLE001  # an error of a driver or library must not end the work
                    pause = min(thread.failed(error), seconds)
                else:
                    thread.works()
                    pause = seconds

        return cls(name, work)

    def start(self) -> Self:
        """Start the thread."""
        self.begin()
        self._thread.start()
        return self

    def close(self, timeout: float | None = None) -> None:
        """End the thread and wait for it, at most so many seconds: a daemon thread ends with the process."""
        self.stopping.set()
        self._thread.join(timeout)
        self.end()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._work(self)
                error: BaseException = RuntimeError("it ended")
            except BaseException as raised:  # noqa: BLE001  # also a panic of a library in Rust, which is no Exception
                error = raised
            if not self.stopping.is_set():
                self.stopping.wait(self.failed(error))


async def supervise(supervised: Supervised, work: Callable[[], Awaitable[object]]) -> None:
    """Run asynchronous work until this is cancelled; any exception, and returning, is a failure.

    Example: `task = asyncio.create_task(supervise(Supervised("accept"), accept))`
    """
    supervised.begin()
    try:
        while True:
            try:
                await work()
                error: BaseException = RuntimeError("it ended")
            except asyncio.CancelledError as cancelled:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                error = cancelled
            except Exception as raised:  # noqa: BLE001  # supervision is what this is for
                error = raised
            await asyncio.sleep(supervised.failed(error))
    finally:
        supervised.end()
