"""Everything that a job depends on, to be struck by faults while the job is held at some moment of its work."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from cassandra_server import CassandraNode
from driver_process import PATIENCE, WRITTEN, Driver, left
from faulty_proxy import Fault, FaultyProxy, Request
from proxy_process import ProxyProcess, proxy_process, services_toml, until
from small_company import Company
from spark_cluster import SparkCluster

# How the job ends that is at work: it goes on, or dies, or fails with an error that names the cause.
GOES_ON, DIES = "done", "dead"
NOT_WRITTEN = "StorageError: could not write"
FULL = "SnapshotIndexError: index sqlite://.* → check whether its disk is full or broken"
PROFILES, BUCKETS = 40, 2
VIDEOS = 200  # of each label row, so that a file of features is larger than a disk's pages
_DISK_BYTES = 32 << 20
_HALF_A_FILE = 4 << 10


class Stage(StrEnum):
    """Where a job is in its work."""

    BEFORE = "before the first file"
    MIDWAY = "in mid-file"
    HELD = "after the files"
    PUBLISHING = "during publishing"
    UNANSWERED = "before its answer"
    DONE = "after publishing"


class Failure(StrEnum):
    """The fault that strikes meanwhile."""

    DRIVER = "driver killed"
    WORKER = "Python workers killed"
    EXECUTOR = "executor of a cluster killed"
    HANGING = "executor of a cluster hangs"
    PROXY = "Prana proxy killed"
    NODE = "Cassandra node killed"
    HUNG_NODE = "Cassandra node hangs"
    STORAGE = "storage refuses writes"
    DISK = "disk is full"


@dataclass
class Stack:
    """A project in Cassandra and S3, which all cells share, and the processes it needs.

    s3: a proxy in front of the S3 server
    environment: of drivers
    published: the runs that are published
    cluster: of Spark, on which drivers run; None: each has executors of its own
    """

    folder: Path
    node: CassandraNode
    s3: FaultyProxy
    index: str
    storage: str
    environment: Mapping[str, str]
    company: Company
    stack: ExitStack
    published: dict[str, Any] = field(default_factory=dict)
    cluster: SparkCluster | None = None
    _driver: Driver | None = None
    _prana: ProxyProcess | None = None
    _release: list[Callable[[], None]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _held: bool = False
    _ended: dict[str, Any] | None = None

    @property
    def driver(self) -> Driver:
        """A driver that is ready for a job."""
        if self._driver is None or not self._driver.alive:
            self._driver = Driver(self.environment)
            self.stack.callback(self._driver.kill)
        return self._driver

    @property
    def place(self) -> dict[str, str]:
        """The index and the storage of jobs."""
        return {"index": self.index, "storage": self.storage}

    def look(self, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Give all published runs, and the rows that one run has written, published or not."""
        found = self.driver.run("look", run_id=run_id, **self.place)
        return found["runs"], found["left"]

    def kept(self, run_id: str) -> dict[str, Any]:
        """Give the answers that a run has written so far, by profile."""
        return left(self.storage, run_id)

    @property
    def prana(self) -> str:
        """The address of a proxy."""
        if self._prana is None:
            folder = self.folder / f"prana-{next(self._numbers)}"
            folder.mkdir()
            table = {"history": self.company.services["history"]}
            self._prana = self.stack.enter_context(proxy_process(services_toml(folder / "services.toml", table)))
        return self._prana.addresses[0]

    def begin_snapshot(self, run_id: str, stage: Stage, patience: int, *, spark: bool = False) -> None:
        """Take a snapshot, and hold it at a stage. patience: with the index, in seconds."""
        job = {"proxies": [self.prana], "run_id": run_id, "spark": spark, **self.place}
        if self.index.startswith("cassandra:"):
            job["index"] += f"?patience_seconds={patience}"
        if stage == Stage.BEFORE:
            self.company.open.clear()
        if stage == Stage.MIDWAY:
            part = self._hang("hang", _third(lambda request: _writes(request, f"/{run_id}/")))
        self.driver.start("snapshot", hold=stage in (Stage.HELD, Stage.PUBLISHING), **job)
        if stage == Stage.BEFORE:
            until(lambda: self.company.asked, PATIENCE)
        elif stage == Stage.MIDWAY:
            assert part.hanging.wait(PATIENCE)
        else:
            self._reach(stage)
            if stage == Stage.PUBLISHING:
                self.node.pause()
                self._release.append(self.node.resume)
                self._publish()
                time.sleep(0.5)  # its request to publish is under way by then

    def begin_generation(self, name: str, stage: Stage, *, spark: bool = False) -> None:
        """Generate a feature set, and hold it at a stage."""
        if stage == Stage.BEFORE:
            reading = self._hang("hang", lambda request: request.method == "GET" and "/snapshots/" in request.path)
        if stage == Stage.MIDWAY:
            writing = self._hang("hang", lambda request: _writes(request, f"/{name}/"))
        hold = BUCKETS if stage in (Stage.HELD, Stage.PUBLISHING, Stage.UNANSWERED) else 0
        self.driver.start("generate", name=name, run_id=name, hold=hold, spark=spark, **self.place)
        if stage == Stage.BEFORE:
            assert reading.hanging.wait(PATIENCE)
        elif stage == Stage.MIDWAY:
            assert writing.hanging.wait(PATIENCE)
        else:
            self._reach(stage)
            if stage in (Stage.PUBLISHING, Stage.UNANSWERED):
                how = "hang" if stage == Stage.PUBLISHING else "hang before answer"
                committing = self._hang(how, lambda request: _writes(request, f"/{name}/_delta_log/", ".json"))
                self._publish()
                assert committing.hanging.wait(PATIENCE)

    def strike(self, failure: Failure, stage: Stage) -> None:
        """Let something fail at a stage."""
        if failure == Failure.DRIVER:
            self.driver.kill()
        elif failure == Failure.WORKER:
            self.driver.kill_workers()
        elif failure == Failure.EXECUTOR:
            assert self.cluster is not None
            self.cluster.executors()[0].kill()
        elif failure == Failure.HANGING:
            self._ended = self.driver.next_event()  # another attempt ends the job: the hanging one is released later
        elif failure == Failure.PROXY:
            assert self._prana is not None
            for process in (self._prana.process, *self._prana.workers):
                process.kill()
            self._prana = None
        elif failure == Failure.NODE:
            self.node.kill()
        elif failure == Failure.HUNG_NODE:
            self.node.pause()  # until all is well again
        elif failure == Failure.STORAGE:
            self.s3.refuse(403, "AccessDenied", meant=lambda request: request.method == "PUT")

    def release(self, stage: Stage) -> str:
        """Let the job go on, if it lives; give how it ends: "done", "dead", or its error."""
        self.company.open.set()
        for release in self._release:
            release()
        self._release.clear()
        assert self._driver is not None
        if stage == Stage.DONE and self._driver.alive:
            return "done"
        if self._held and self._driver.alive:
            self._driver.resume()
        self._held = False
        end, self._ended = self._ended or self._driver.next_event(), None
        if end["event"] == "failed":
            self._driver.kill_workers()  # Spark lets those of a job that failed linger, and they send more requests
        return str(end.get("error") or end["event"])

    def heal(self) -> None:
        """Undo all faults; killed processes but the node are started when they are next needed."""
        self.s3.heal()
        self.node.resume()
        if not self.node.running:
            self.node.start()
            self.node.wait()
        asked = -1
        while asked != (asked := len(self.company.asked)):  # requests of processes that died
            time.sleep(0.5)

    def _reach(self, stage: Stage) -> None:
        event = self.driver.next_event()
        assert event["event"] == ("done" if stage == Stage.DONE else WRITTEN), event
        self._held = stage != Stage.DONE

    def _publish(self) -> None:
        self.driver.resume()
        self._held = False

    def _hang(self, kind: str, meant: Callable[[Request], bool]) -> Fault:
        fault = self.s3.misbehave(kind, 1, meant)
        self._release.append(fault.freed.set)
        return fault


class SmallDisk(Stack):
    """The same with local files and SQLite, on a small disk that can be filled."""

    @property
    def driver(self) -> Driver:
        """A driver that is ready for a job."""
        if self._driver is None:
            disk = self.folder / "disk"
            disk.mkdir()
            self._driver = Driver(disk=disk, size=_DISK_BYTES)
            self.stack.callback(self._driver.kill)
        return self._driver

    def leave(self, free: int) -> None:
        """Fill the disk up to so many bytes; where none could be mounted, limit the size of files to them."""
        if self.driver.mounted:
            (self._disk / "ballast").unlink(missing_ok=True)
            status = os.statvfs(self._disk)
            try:
                (self._disk / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - free))
            except OSError as error:  # a job has written meanwhile: the disk is full all the same
                if free or error.errno != errno.ENOSPC:
                    raise
        else:
            self._limit(free)

    def begin_snapshot(self, run_id: str, stage: Stage, _: int, **__: Any) -> None:
        """Take a snapshot, and hold it at a stage."""
        if stage in (Stage.BEFORE, Stage.MIDWAY):
            self.company.open.clear()
        self.driver.start(
            "snapshot", proxies=[self.prana], run_id=run_id, hold=stage in (Stage.HELD, Stage.PUBLISHING), **self.place
        )
        if stage in (Stage.BEFORE, Stage.MIDWAY):
            until(lambda: self.company.asked, PATIENCE)
        else:
            self._reach(stage)
        if stage == Stage.PUBLISHING:
            connection = sqlite3.connect(self._disk / "index.db", isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            self._release.append(connection.close)  # releases the lock
            self._publish()
            time.sleep(0.5)  # it waits to write by then

    def begin_generation(self, name: str, stage: Stage, **_: Any) -> None:
        """Generate a feature set, and hold it at a stage."""
        if stage == Stage.BEFORE:
            self.strike(Failure.DISK, stage)
        hold = {Stage.MIDWAY: 1, Stage.HELD: BUCKETS}.get(stage, 0)
        self.driver.start("generate", name=name, run_id=name, hold=hold, **self.place)
        if stage != Stage.BEFORE:
            self._reach(stage)

    def strike(self, failure: Failure, stage: Stage) -> None:
        """Fill the disk, or all but half a file of it."""
        assert failure == Failure.DISK
        self.leave(_HALF_A_FILE if stage == Stage.MIDWAY else 0)

    def heal(self) -> None:
        """Free the disk."""
        if self.driver.mounted:
            (self._disk / "ballast").unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)

    @property
    def _disk(self) -> Path:
        assert self.driver.disk is not None
        return self.driver.root / self.driver.disk.relative_to("/")

    def _limit(self, size: int) -> None:
        for process in self.driver.pythons():
            process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _writes(request: Request, folder: str, ends: str = ".parquet") -> bool:
    return request.method == "PUT" and folder in request.path and request.path.partition("?")[0].endswith(ends)


def _third(meant: Callable[[Request], bool]) -> Callable[[Request], bool]:
    numbers = count(1)
    return lambda request: meant(request) and next(numbers) == 3


@contextmanager
def company() -> Iterator[Company]:
    """Services of which one in ten contexts fails, always."""
    services = Company()
    services.failing = {3: "error"}
    try:
        yield services
    finally:
        services.close()


def cells(stages: Sequence[Stage], expected: Mapping[Failure, Sequence[str | None]]) -> list[Any]:
    """Give the cells of a table: the outcome of a job by failure and stage. None: no such cell."""
    return [
        pytest.param(failure, stage, outcome, id=f"{failure}, {stage}")
        for failure, outcomes in expected.items()
        for stage, outcome in zip(stages, outcomes, strict=True)
        if outcome is not None
    ]


def in_words(outcome: str) -> str:
    """Describe how a job ended."""
    return {GOES_ON: "goes on", DIES: "dies"}.get(outcome, "fails")
