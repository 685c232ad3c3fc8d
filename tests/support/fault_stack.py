"""Everything that a job depends on, to be struck by faults while the job is held at some moment of its work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from cassandra_server import CassandraNode
from driver_jobs import left
from driver_process import PATIENCE, WRITTEN, Driver
from fault_table import Failure, Stage
from faulty_proxy import Fault, FaultyProxy, Request
from proxy_process import ProxyProcess, proxy_process, services_toml, until
from small_company import Company
from spark_cluster import SparkCluster

PROFILES, BUCKETS = 40, 2
VIDEOS = 200  # of each label row, so that a file of features is larger than a disk's pages


@dataclass
class Stack:
    """A project in Cassandra and S3, which all cells share, and the processes it needs.

    s3: a proxy in front of the S3 server
    environment: of drivers
    published: the runs that are published
    days: of each feature set that is generated day by day, how many it has
    experiments: those that the date of `begin_selection` has
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
    days: Counter[str] = field(default_factory=Counter)
    experiments: list[str] = field(default_factory=list)
    cluster: SparkCluster | None = None
    _driver: Driver | None = None
    _prana: ProxyProcess | None = None
    _release: list[Callable[[], None]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)
    _held: bool = False
    _ended: dict[str, Any] | None = None
    _begun: tuple[str, dict[str, Any]] = ("", {})

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
            self._await(part)
        else:
            self._reach(stage)
            if stage == Stage.PUBLISHING:
                self._publish_to_paused_node()

    def begin_generation(self, name: str, stage: Stage, job: str = "generate", **arguments: Any) -> None:
        """Generate a feature set by one of the jobs that do, and hold it at a stage."""
        log = f"/{name}/_delta_log/"
        places: dict[Stage, tuple[str, Callable[[Request], bool]]] = {
            Stage.LABELS: ("hang", lambda request: _writes(request, "/labels/")),
            Stage.BEFORE: ("hang", lambda request: request.method == "GET" and "/snapshots/" in request.path),
            Stage.MIDWAY: ("hang", lambda request: _writes(request, f"/{name}/")),
            Stage.PUBLISHING: ("hang", lambda request: _writes(request, log, ".json")),
            Stage.UNANSWERED: ("hang before answer", lambda request: _writes(request, log, ".json")),
            Stage.RECORDING: ("hang", lambda request: _writes(request, "/experiments/", ".json")),
        }
        held = {"hold": BUCKETS} if stage == Stage.HELD else {}
        self._begin(stage, places, job, {"name": name, **arguments}, held)

    def begin_selection(self, stage: Stage, **arguments: Any) -> None:
        """Select a revision of a date's contexts, and hold it at a stage."""
        places: dict[Stage, tuple[str, Callable[[Request], bool]]] = {
            Stage.MIDWAY: ("hang", lambda request: _writes(request, "/context_sets/")),
            Stage.TABLE: ("hang", lambda request: _writes(request, "/context_sets/", ".json")),
        }
        held = {"hold": True} if stage in (Stage.HELD, Stage.PUBLISHING) else {}
        self._begin(stage, places, "select", arguments, held)
        if stage == Stage.PUBLISHING:
            self._publish_to_paused_node()

    def _begin(
        self,
        stage: Stage,
        places: Mapping[Stage, tuple[str, Callable[[Request], bool]]],
        job: str,
        arguments: dict[str, Any],
        held: dict[str, Any],
    ) -> None:
        """Start a job, and wait until it hangs where it is to, or until it reports."""
        self._begun = job, arguments
        hanging = self._hang(*places[stage]) if stage in places else None
        self.driver.start(job, **arguments, **held, **self.place)
        if hanging is None:
            self._reach(stage)
        else:
            self._await(hanging)

    def strike(self, failure: Failure, stage: Stage) -> None:
        """Let something fail at a stage. A connection is cut on which something hangs, when it is released."""
        strikes: dict[Failure, Callable[[], None]] = {
            Failure.DRIVER: lambda: self.driver.kill(),
            Failure.SPARK_DRIVER: lambda: self.driver.kill(),
            Failure.ANOTHER: self._do_the_same,
            Failure.WORKER: lambda: self.driver.kill_workers(),
            Failure.EXECUTOR: self._kill_executor,
            Failure.HANGING: self._await_another_attempt,
            Failure.PROXY: self._kill_proxy,
            Failure.NODE: self.node.kill,
            Failure.HUNG_NODE: self.node.pause,  # until all is well again
            Failure.STORAGE: lambda: self.s3.refuse(403, "AccessDenied", meant=lambda request: request.method == "PUT"),
            Failure.CUT: lambda: None,
        }
        strikes[failure]()

    def _do_the_same(self) -> None:
        other, (job, arguments) = Driver(self.environment), self._begun
        other.run(job, **arguments, **self.place)
        other.kill()

    def _kill_executor(self) -> None:
        assert self.cluster is not None
        self.cluster.executors()[0].kill()

    def _await_another_attempt(self) -> None:
        self._ended = self.driver.next_event()  # it ends the job: the one that hangs is released later

    def _kill_proxy(self) -> None:
        assert self._prana is not None
        for process in (self._prana.process, *self._prana.workers):
            process.kill()
        self._prana = None

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

    def settle(self) -> None:
        """Wait until services receive no more requests of processes that died."""
        asked = -1
        while asked != (asked := len(self.company.asked)):
            time.sleep(0.5)

    def _reach(self, stage: Stage) -> None:
        event = self.driver.next_event()
        assert event["event"] == ("done" if stage == Stage.DONE else WRITTEN), event
        self._held = stage != Stage.DONE

    def _await(self, fault: Fault) -> None:
        until(lambda: fault.hanging.is_set() or self.driver.reports, PATIENCE)
        assert fault.hanging.is_set(), self.driver.next_event()

    def _publish_to_paused_node(self) -> None:
        self.node.pause()
        self._release.append(self.node.resume)
        self._publish()
        time.sleep(0.5)  # its request to publish is under way by then

    def _publish(self) -> None:
        self.driver.resume()
        self._held = False

    def _hang(self, kind: str, meant: Callable[[Request], bool]) -> Fault:
        fault = self.s3.misbehave(kind, 1, meant)
        self._release.append(fault.freed.set)
        return fault


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
