"""Work that is repeated in the background for as long as a server runs: no error ends it, and none stays unseen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_log = logging.getLogger(__name__)
_SLOWEST = timedelta(seconds=60)  # a run may take at least this long before it counts as stuck
_CLOSING_SECONDS = 5.0


class RepeatedTask:
    """Runs a task again and again on a thread of its own, whatever the task raises.

    name: of the task, for logs and messages
    every: the pause after each run
    runs, failures, restarts: how many runs succeeded, how many raised, how often the thread had to be started again
    """

    def __init__(self, name: str, task: Callable[[], object], every: timedelta) -> None:
        self.name, self.runs, self.failures, self.restarts = name, 0, 0, 0
        self._task, self._every = task, every
        self._failing: tuple[datetime, str] | None = None  # since when, and the last error
        self._began: float | None = None  # when the run under way began, by the monotonic clock
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = self._started()

    @property
    def problem(self) -> str | None:
        """What is wrong, since when; None while the task succeeds."""
        self._restart_if_dead()
        failing, began = self._failing, self._began
        if failing is not None:
            since, error = failing
            return f"{self.name} has failed since {since.isoformat(timespec='seconds')}: {error}"
        running = 0.0 if began is None else time.monotonic() - began
        if running > max(_SLOWEST, 3 * self._every).total_seconds():
            return f"{self.name} has not ended for {running:,.0f} s"
        return None

    def close(self) -> None:
        """End the task; one that is stuck is left behind, its thread ends with the process."""
        self._ended.set()
        self._thread.join(_CLOSING_SECONDS)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        return thread

    def _restart_if_dead(self) -> None:
        with self._lock:
            if not self._thread.is_alive() and not self._ended.is_set():
                self.restarts += 1
                _log.error("%s: its thread had died and is started again", self.name)
                self._thread = self._started()

    def _run(self) -> None:
        while not self._ended.wait(self._every.total_seconds()):
            self._began = time.monotonic()
            try:
                self._task()
            except BaseException as error:  # noqa: BLE001  # whatever a driver raises, the next run may succeed
                self.failures += 1
                since = datetime.now(UTC) if self._failing is None else self._failing[0]
                self._failing = (since, f"{type(error).__name__}: {error}")
                _log.warning("%s failed, and is tried again in %s: %s", self.name, self._every, error)
            else:
                self.runs += 1
                self._failing = None
            finally:
                self._began = None
