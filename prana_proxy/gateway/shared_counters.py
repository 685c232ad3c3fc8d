"""Counters in memory that the processes of one proxy share, so that limits hold over all of them.

Each service has a page of numbers: its breaker and the times of its last calls, and for each process the calls in
flight and waiting and its totals. Of a process that dies, `forget` clears what was in progress. A gateway in a single
process has counters of its own, and its locks cost nothing.

A service's page stays while any process uses it, and after that until its slot is needed for another service; so a
service that returns soon continues with its counters.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from schemas.errors import ConfigError
from schemas.services import Status

MOST_SERVICES: Final = 256
_SLOTS: Final = 2 * MOST_SERVICES  # all services may be renamed at once, and calls under the old names have to end
MOST_PROCESSES: Final = 64
MOST_CALLS_PER_SECOND: Final = 10_000
LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))
"""Upper bounds, in seconds, of the histogram of calls' durations."""

BREAKER_BUCKETS: Final = 10
_NAME_BYTES: Final = 256


class ServiceField(IntEnum):
    """Index of a number that all processes write, in a service's page."""

    BREAKER_STATE = 0
    BREAKER_SINCE = 1
    BREAKER_EPOCH = 2
    BREAKER_PROBER = 3  # process + 1
    BREAKER_RUN_FAILED = 4  # of the run of calls without a success: those that failed
    BREAKER_RUN_CUT = 5  # those whose outcome is unknown
    BREAKER_RUN_SINCE = 6  # when its first call began
    BREAKER_RUN_LAST = 7  # when its last call ended
    BREAKER_WINDOW = 8  # of each bucket: when it began, calls, failures
    RATE_HEAD = BREAKER_WINDOW + 3 * BREAKER_BUCKETS  # where in the ring the next call's time goes
    RATE_NEXT = RATE_HEAD + 1  # when the next call is due if they come evenly
    RATE_SPARE_UNTIL = RATE_HEAD + 2  # until when waiting for answers leaves enough of the rate
    RATE_LIMIT = RATE_HEAD + 3  # calls a second, by whoever sent or waited last
    RATE_MIXED_UNTIL = RATE_HEAD + 4  # until when calls may count that were sent under another limit
    RATE_CALLS = RATE_HEAD + 5  # ring of the last calls: when answered within the margin, else minus when sent


class ProcessField(IntEnum):
    """Index of a number that one process writes, in its part of a service's page."""

    IN_FLIGHT = 0  # calls that count towards max_concurrent: sent, or waiting for the rate limit
    WAITING_SINCE = 1  # of the first in the queue; 0: it is empty
    WAITING_SEEN = 2  # when the first in the queue last polled: one that has stopped has no precedence
    QUEUED = 3  # contexts that wait to become part of a call
    CALLS = 4
    RETRIES = 5  # of these
    SECONDS = 6  # duration of all calls together
    OUT = 7  # calls that were sent and have not ended
    WAITING = 8  # calls that wait for max_concurrent or the rate limit
    ABANDONED = 9  # calls in flight whose callers have stopped waiting
    ABANDONED_SINCE = 10  # when the youngest of these was sent
    ANSWERED_AT = 11  # when the last answer arrived, even an error
    LATE = 12  # calls that had no outcome by their callers' deadline
    CUT = 13  # of these, those cancelled at the deadline, whose outcome is unknown
    USED = 14  # 1: the process uses this page
    STATUS = 15  # contexts by status, in the order of `Status`
    LATENCY = STATUS + len(Status)  # calls by LATENCIES


IN_PROGRESS: Final = (
    ProcessField.IN_FLIGHT,
    ProcessField.WAITING_SINCE,
    ProcessField.QUEUED,
    ProcessField.OUT,
    ProcessField.WAITING,
    ProcessField.ABANDONED,
    ProcessField.USED,
)
"""The numbers of what a process has in progress; cleared when it has died."""

_OWN: Final = ProcessField.LATENCY + len(LATENCIES)
_SHARED: Final = ServiceField.RATE_CALLS + MOST_CALLS_PER_SECOND
_PAGE: Final = _SHARED + MOST_PROCESSES * _OWN  # numbers of one service
_NAMES: Final = _SLOTS * _NAME_BYTES  # bytes before the pages


@dataclass(frozen=True)
class ServicePage:
    """One service's numbers. shared: by all processes; processes: each one's own; process: index of this one."""

    shared: memoryview[float]
    processes: tuple[memoryview[float], ...]
    process: int
    _counters: SharedCounters
    _slot: int

    @property
    def own(self) -> memoryview[float]:
        """The numbers of this process."""
        return self.processes[self.process]

    def lock(self) -> AbstractContextManager[None]:
        """Lock the service's numbers for other processes, for microseconds; a process that dies releases its lock."""
        return self._counters.lock(self._slot)

    def total(self, number: int) -> float:
        """Sum one of the processes' own numbers over all of them."""
        return float(sum(part[number] for part in self.processes))


class SharedCounters:
    """The pages of all services.

    processes: how many share them; process: index of this one
    handle: file descriptor of the memory, inherited from the process that created it; None: create it

    All methods except `forget` belong on one thread of a process: locks are between processes.
    """

    def __init__(self, processes: int = 1, process: int = 0, handle: int | None = None) -> None:
        if not 0 <= process < processes <= MOST_PROCESSES:
            raise ConfigError.because(f"process {process} of {processes}, expected at most {MOST_PROCESSES}")
        self.processes, self.process = processes, process
        size = _NAMES + _SLOTS * _PAGE * 8  # untouched pages take no memory
        if handle is None and processes > 1:
            handle = os.memfd_create("prana-counters")
            os.ftruncate(handle, size)
        self.handle = handle
        self._memory = mmap.mmap(-1 if handle is None else handle, size)
        self._pages: dict[int, ServicePage] = {}  # by slot, used or not
        self._used: dict[str, ServicePage] = {}  # of the services that this process uses

    def page(self, service: str) -> ServicePage:
        """Return a service's page, which this process uses until `release`; a new one is all zeros.

        Raises ConfigError when there are too many services.
        """
        if service not in self._used:
            self._used[service] = self._open(service)
        return self._used[service]

    def used_page(self, service: str) -> ServicePage | None:
        """Return the page of a service that this process uses, else None; safe in any thread."""
        return self._used.get(service)

    def has_room(self, service: str) -> bool:
        """Whether there is a slot for a service now."""
        with self.lock(_SLOTS):
            names = self._names()
            return len(names) < _SLOTS or service in names.values() or any(map(self._unused, names))

    def release(self, service: str) -> None:
        """Stop using a service's page; its slot may be reused once no process uses it."""
        page = self._used.pop(service, None)
        if page is not None:
            page.own[ProcessField.USED] = 0.0

    def pages(self) -> dict[str, ServicePage]:
        """Return the pages that any process uses, by service, in the order of their slots; only for reading."""
        with self.lock(_SLOTS):
            pages = {name: self._page(slot) for slot, name in self._names().items()}
        return {name: page for name, page in pages.items() if page.total(ProcessField.USED)}

    def services(self) -> list[str]:
        """List the services whose pages any process uses."""
        return list(self.pages())

    def forget(self, process: int) -> None:
        """Clear what a process that has died had in progress."""
        for page in self.pages().values():
            part = page.processes[process]
            with page.lock():
                for number in IN_PROGRESS:
                    part[number] = 0.0
                if page.shared[ServiceField.BREAKER_PROBER] == process + 1:
                    page.shared[ServiceField.BREAKER_PROBER] = 0.0

    def lock(self, slot: int) -> AbstractContextManager[None]:
        """Lock a slot for other processes."""
        return nullcontext() if self.processes == 1 else self._locked(slot)

    def close(self) -> None:
        """Release the memory."""
        for page in self._pages.values():
            for view in (page.shared, *page.processes):
                view.release()
        self._pages.clear()
        self._used.clear()
        self._memory.close()
        if self.handle is not None:
            os.close(self.handle)

    @contextmanager
    def _locked(self, slot: int) -> Iterator[None]:
        assert self.handle is not None
        fcntl.lockf(self.handle, fcntl.LOCK_EX, 1, slot)
        try:
            yield
        finally:
            fcntl.lockf(self.handle, fcntl.LOCK_UN, 1, slot)

    def _names(self) -> dict[int, str]:
        """Return the slots that have been used, each with its last service."""
        names = {}
        for slot in range(_SLOTS):
            (length,) = struct.unpack_from("<H", self._memory, slot * _NAME_BYTES)
            if not length:
                break
            start = slot * _NAME_BYTES + 2
            names[slot] = self._memory[start : start + length].decode()
        return names

    def _page(self, slot: int) -> ServicePage:
        if slot not in self._pages:
            start = _NAMES + slot * _PAGE * 8
            numbers = memoryview(self._memory)[start : start + _PAGE * 8].cast("d")
            processes = tuple(numbers[_SHARED + i * _OWN : _SHARED + (i + 1) * _OWN] for i in range(self.processes))
            self._pages[slot] = ServicePage(numbers[:_SHARED], processes, self.process, self, slot)
        return self._pages[slot]

    def _open(self, service: str) -> ServicePage:
        name = service.encode()
        if len(name) > _NAME_BYTES - 2:
            raise ConfigError.because(f"service '{service[:40]}…' has a name of {len(name)} bytes", "use at most 254")
        with self.lock(_SLOTS):
            names = self._names()
            slot = next((slot for slot, known in names.items() if known == service), None)
            if slot is None:
                slot = self._free_slot(names)
                struct.pack_into(f"<H{len(name)}s", self._memory, slot * _NAME_BYTES, len(name), name)
            page = self._page(slot)
            page.own[ProcessField.USED] = 1.0
        return page

    def _unused(self, slot: int) -> bool:
        page = self._page(slot)
        return not any(
            page.total(number) for number in (ProcessField.USED, ProcessField.IN_FLIGHT, ProcessField.QUEUED)
        )

    def _free_slot(self, names: Mapping[int, str]) -> int:
        """Return a slot that was never used, or else clear one that no process uses any more."""
        if len(names) < _SLOTS:
            return len(names)
        for slot in names:
            if self._unused(slot):
                start = _NAMES + slot * _PAGE * 8
                self._memory[start : start + _PAGE * 8] = bytes(_PAGE * 8)
                return slot
        raise ConfigError.because(f"more than {MOST_SERVICES} services", "divide them over several proxies")
