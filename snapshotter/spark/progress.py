"""How tasks tell the driver how far they are, while they run: by datagrams, of which none matters.

Spark's accumulators are exact but come only when a task ends; what is lost on the way they make good.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec

from prana_proxy.supervised import SupervisedThread

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LARGEST = 512  # bytes of a datagram
_MOST_AT_ONCE = 2_000  # datagrams read in one go: a flood must not hold up the driver
_EVERY_SECONDS = 0.25
_LISTEN_SECONDS = 0.2


class _Report(msgspec.Struct, forbid_unknown_fields=True):
    """A task's datagram. done, planned: contexts, of one attempt."""

    token: str
    service: int
    task: int
    done: int
    planned: int


@dataclass(frozen=True)
class Ear:
    """Where a run's driver listens, as tasks need to know it."""

    host: str
    port: int
    token: str


class Teller:
    """A task's voice: tells the driver how far the task is. Nothing that goes wrong here matters.

    ear: None: nobody listens
    service, task: numbers, by which the driver knows them
    count: also told of each context that is done, exactly once
    """

    def __init__(self, ear: Ear | None, service: int, task: int, count: Callable[[int], None]) -> None:
        self._ear, self._service, self._task, self._count = ear, service, task, count
        self._done = 0
        self._told_at = 0.0
        self._socket: socket.socket | None = None
        if ear is not None:
            with contextlib.suppress(OSError):
                family, kind, *_, address = socket.getaddrinfo(ear.host, ear.port, type=socket.SOCK_DGRAM)[0]
                self._socket = socket.socket(family, kind)
                self._socket.setblocking(False)
                self._socket.connect(address)

    def tell(self, done: int, planned: int) -> None:
        """Say how many contexts of how many are done: to the driver unless that was told just before."""
        self._count(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._ear is None or self._socket is None:
            return
        if done in (0, planned) or now - self._told_at >= _EVERY_SECONDS:
            self._told_at = now
            report = _Report(self._ear.token, self._service, self._task, done, planned)
            with contextlib.suppress(OSError):
                self._socket.send(msgspec.json.encode(report))

    def close(self) -> None:
        """Close the socket; what is told from now on is only counted."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Tellers:
    """The voices of a task, one for each service that it asks. Use it as a context manager.

    counts: service's number → what is told of each context that is done
    """

    def __init__(self, ear: Ear | None, task: int, counts: Mapping[int, Callable[[int], None]]) -> None:
        self._tellers = {number: Teller(ear, number, task, count) for number, count in counts.items()}

    def of(self, service: int) -> Callable[[int, int], None]:
        """Give the function that tells how far a service is."""
        return self._tellers[service].tell

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all."""
        for teller in self._tellers.values():
            teller.close()


class Board:
    """What the driver has heard of a run. Use it as a context manager.

    host: to listen on and to be reached at; None: nobody will tell anything
    tasks: how many each service has
    """

    def __init__(self, host: tuple[str, str] | None, tasks: Sequence[int]) -> None:
        self._tasks = tasks
        self._heard: list[dict[int, tuple[int, int]]] = [{} for _ in tasks]
        self._socket: socket.socket | None = None
        self.ear: Ear | None = None
        if host is not None:
            with contextlib.suppress(OSError):  # then bars jump, and nothing else is worse
                bound, reached = host
                self._socket = _listening(bound)
                self.ear = Ear(reached, self._socket.getsockname()[1], secrets.token_hex(16))

    def listen(self) -> None:
        """Read what has come."""
        for _ in range(_MOST_AT_ONCE if self._socket is not None else 0):
            assert self._socket is not None
            try:
                data = self._socket.recv(_LARGEST + 1)
            except OSError:  # nothing more, mostly
                return
            if len(data) <= _LARGEST:
                self._note(data)

    def heard(self, service: int, most: int) -> tuple[int, int]:
        """Give the contexts done and those in all: exact once each task has begun, before that by the tasks so far.

        most: the contexts in all, when no task has begun
        """
        reports = self._heard[service].values()
        if not reports:
            return 0, most
        done, planned = sum(report[0] for report in reports), sum(report[1] for report in reports)
        return done, planned * self._tasks[service] // len(reports)

    def _note(self, data: bytes) -> None:
        try:
            report = msgspec.json.decode(data, type=_Report)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        ours = self.ear is not None and hmac.compare_digest(report.token.encode(), self.ear.token.encode())
        if not ours or not 0 <= report.service < len(self._tasks):
            return
        if 0 <= report.task < self._tasks[report.service] and 0 <= report.done <= report.planned < 2**40:
            heard = self._heard[report.service]
            before, _ = heard.get(report.task, (0, 0))
            heard[report.task] = max(before, report.done), report.planned

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if self._socket is not None:
            self._socket.close()


@contextmanager
def listening(board: Board, buckets: int, progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Report what tasks tell of buckets while this thread waits for Spark, which takes interrupts from it alone."""
    if progress is None:
        yield
        return
    before = 0

    def listen() -> None:
        nonlocal before
        board.listen()
        done = min(board.heard(0, buckets)[0], buckets - 1)  # the last one is done when Spark has it
        if done > before:
            before = done
            progress(done, buckets)

    with SupervisedThread.every(_LISTEN_SECONDS, "progress of buckets", listen):
        yield


def driver_host(spark: SparkSession) -> tuple[str, str]:
    """Give the address to bind on this driver, and the one at which executors reach it."""
    conf = spark.sparkContext.getConf()
    if str(conf.get("spark.master")).startswith("local"):
        return "127.0.0.1", "127.0.0.1"
    reached = str(conf.get("spark.driver.host"))
    return str(conf.get("spark.driver.bindAddress", reached)), reached


def _listening(host: str) -> socket.socket:
    family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
    listener = socket.socket(family, kind)
    try:
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
