"""Reports of contexts done, from the tasks of a capture to its driver, while they run.

Spark itself reports finished tasks only: its accumulators arrive when a task ends, and a task captures up to 50,000
contexts of several services. Tasks therefore send datagrams. One that is lost does not matter: the next replaces it,
and the accumulators correct the count at the end of each task.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from schemas.closeable import Closeable
from snapshotter.spark.connect import is_remote

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LARGEST_DATAGRAM = 512  # bytes
_DATAGRAMS_PER_READ = 2_000  # bounds how long a flood can hold up the driver
_SEND_SECONDS = 0.25


class ProgressReport(msgspec.Struct, forbid_unknown_fields=True):
    """One datagram. done, planned: contexts of one service, of one attempt at a task."""

    token: str
    service: int
    task: int
    done: int
    planned: int


@dataclass(frozen=True)
class EndpointAddress:
    """Where a driver receives reports, and the token that they must carry."""

    host: str
    port: int
    token: str


class ProgressReporter(Closeable):
    """Sends the progress of one task. Use it as a context manager; no failure to send is an error.

    address: None: nothing is sent
    task: its number
    counters: service's number → called with the contexts that are newly done, so that each is counted exactly once
    """

    def __init__(
        self, address: EndpointAddress | None, task: int, counters: Mapping[int, Callable[[int], None]]
    ) -> None:
        self._address, self._task, self._counters = address, task, counters
        self._done = dict.fromkeys(counters, 0)
        self._sent_at = dict.fromkeys(counters, 0.0)
        self._socket: socket.socket | None = None
        if address is not None:
            with contextlib.suppress(OSError):
                family, kind, *_, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
                self._socket = socket.socket(family, kind)
                self._socket.setblocking(False)
                self._socket.connect(target)

    def of(self, service: int) -> Callable[[int, int], None]:
        """Return the function that takes how many contexts of how many are done for a service."""
        return partial(self._report, service)

    def _report(self, service: int, done: int, planned: int) -> None:
        self._counters[service](done - self._done[service])
        self._done[service] = done
        now = time.monotonic()
        if self._address is None or self._socket is None:
            return
        if done in (0, planned) or now - self._sent_at[service] >= _SEND_SECONDS:
            self._sent_at[service] = now
            report = ProgressReport(self._address.token, service, self._task, done, planned)
            with contextlib.suppress(OSError):
                self._socket.send(msgspec.json.encode(report))

    def close(self) -> None:
        """Close the socket; later progress is only counted."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class ProgressEndpoint(Closeable):
    """Receives the reports of a run's tasks on its driver. Use it as a context manager.

    host: the address to bind, and the one at which executors reach it; None: nothing is received
    services: how many there are
    tasks: how many each has
    """

    def __init__(self, host: tuple[str, str] | None, services: int, tasks: int) -> None:
        self._tasks = tasks
        self._received: list[dict[int, tuple[int, int]]] = [{} for _ in range(services)]
        self._socket: socket.socket | None = None
        self.address: EndpointAddress | None = None
        if host is not None:
            with contextlib.suppress(OSError):  # then progress advances only when tasks end
                bound, reached = host
                self._socket = _bound_socket(bound)
                self.address = EndpointAddress(reached, self._socket.getsockname()[1], secrets.token_hex(16))

    def receive(self) -> None:
        """Read the datagrams that have arrived."""
        if self._socket is None:
            return
        for _ in range(_DATAGRAMS_PER_READ):
            try:
                data = self._socket.recv(_LARGEST_DATAGRAM + 1)
            except OSError:  # mostly: none is left
                return
            if len(data) <= _LARGEST_DATAGRAM:
                self._decode(data)

    def progress(self, service: int, most: int) -> tuple[int, int]:
        """Return the contexts done and those in all, the latter extrapolated until every task has begun.

        most: the contexts in all while no task has begun
        """
        reports = self._received[service].values()
        if not reports:
            return 0, most
        done, planned = sum(report[0] for report in reports), sum(report[1] for report in reports)
        return done, planned * self._tasks // len(reports)

    def take(self, service: int, task: int, done: int, planned: int) -> None:
        """Take a report; one of a repeated task does not reduce the contexts done."""
        received = self._received[service]
        before, _ = received.get(task, (0, 0))
        received[task] = max(before, done), planned

    def _decode(self, data: bytes) -> None:
        """Take a datagram, unless it is not one of this run or makes no sense."""
        try:
            report = msgspec.json.decode(data, type=ProgressReport)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        ours = self.address is not None and hmac.compare_digest(report.token.encode(), self.address.token.encode())
        in_range = 0 <= report.service < len(self._received) and 0 <= report.task < self._tasks
        if ours and in_range and 0 <= report.done <= report.planned < 2**40:
            self.take(report.service, report.task, report.done, report.planned)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def driver_host(spark: SparkSession) -> tuple[str, str] | None:
    """Return the address to bind on this driver, and the one at which executors reach it.

    None for a client of a Spark Connect server: the executors may not reach it.
    """
    if is_remote(spark):
        return None
    conf = spark.sparkContext.getConf()
    if str(conf.get("spark.master")).startswith("local"):
        return "127.0.0.1", "127.0.0.1"
    reached = str(conf.get("spark.driver.host"))
    return str(conf.get("spark.driver.bindAddress", reached)), reached


def _bound_socket(host: str) -> socket.socket:
    family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
    listener = socket.socket(family, kind)
    try:
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
