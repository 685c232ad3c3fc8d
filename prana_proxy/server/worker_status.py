"""The status of each process of a proxy, in shared memory: for health, metrics and an even spread of connections."""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum, auto


class WorkerField(IntEnum):
    """Index of a number among a process's numbers."""

    READY = 0  # 1: it accepts connections
    CONNECTIONS = auto()
    ANSWERING = auto()  # calls
    WAITING = auto()  # calls in the queue
    CONFIG_OK = auto()  # 1: it serves by what the file contains now
    CONFIG_CHANGED_AT = auto()  # seconds since the epoch
    CALLS = auto()
    OVERLOADED = auto()  # calls rejected
    MALFORMED = auto()  # connections closed for malformed data
    DENIED = auto()  # connections without a valid token or certificate
    TOO_MANY = auto()  # connections rejected
    STARTS = auto()
    BACKGROUND_FAILURES = auto()  # of background work, each of which was restarted
    BACKGROUND_FAILING = auto()  # pieces of background work that fail now


_FIELDS = len(WorkerField)
_IN_PROGRESS = (
    WorkerField.READY,
    WorkerField.CONNECTIONS,
    WorkerField.ANSWERING,
    WorkerField.WAITING,
    WorkerField.BACKGROUND_FAILING,
)


class WorkerStatus:
    """The status of all processes.

    processes: how many; process: index of this one
    handle: file descriptor of the memory, inherited from the process that created it; None: create it
    """

    def __init__(self, processes: int = 1, process: int = 0, handle: int | None = None) -> None:
        size = processes * _FIELDS * 8
        if handle is None and processes > 1:
            handle = os.memfd_create("prana-worker-status")
            os.ftruncate(handle, size)
        self.handle = handle
        self._memory = mmap.mmap(-1 if handle is None else handle, size)
        self._numbers = memoryview(self._memory).cast("d")
        self.processes = tuple(self._numbers[i * _FIELDS : (i + 1) * _FIELDS] for i in range(processes))
        self.process = process
        self._failures_reported = 0

    @property
    def own(self) -> memoryview[float]:
        """The numbers of this process."""
        return self.processes[self.process]

    def total(self, number: WorkerField) -> float:
        """Sum a number over all processes."""
        return float(sum(part[number] for part in self.processes))

    @property
    def excess(self) -> float:
        """How many more connections this process has than the accepting process with the fewest."""
        accepting = [part[WorkerField.CONNECTIONS] for part in self.processes if part[WorkerField.READY]]
        return self.own[WorkerField.CONNECTIONS] - min(accepting, default=0.0)

    def report_config(self, applied: bool) -> None:
        """Record whether a changed configuration was applied."""
        self.own[WorkerField.CONFIG_OK] = float(applied)
        if applied:
            self.own[WorkerField.CONFIG_CHANGED_AT] = time.time()

    def report_background(self, failures: int, failing: int) -> None:
        """Record how often background work of this process has failed, and how many pieces of it fail now."""
        self.own[WorkerField.BACKGROUND_FAILURES] += failures - self._failures_reported
        self._failures_reported = failures
        self.own[WorkerField.BACKGROUND_FAILING] = failing

    def forget(self, process: int) -> None:
        """Clear the current state of a process that has died; its totals stay."""
        for number in _IN_PROGRESS:
            self.processes[process][number] = 0.0

    def close(self) -> None:
        """Release the memory."""
        for part in self.processes:
            part.release()
        self._numbers.release()
        self._memory.close()
        if self.handle is not None:
            os.close(self.handle)
