"""A driver in a process of its own, for tests that kill it, its workers, or what it writes to.

It takes one job after the other and reports events. A job with "hold" pauses before it publishes what it has written,
until it is resumed. Drivers are forked from a process that has imported what jobs need: they start at once.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from project_at_rest import HISTORY

from encoders import feature_encoder

PATIENCE = 300.0  # seconds to wait for a driver on a busy machine
WRITTEN = "files written"
MASTER, SETTINGS = "DRIVER_MASTER", "DRIVER_SETTINGS"  # of a driver's environment: where its Spark is, and how
_ROOT = Path(__file__).resolve().parents[2]
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        *("pytest", "numba", "deltalake", "boto3", "cassandra.cluster", "pyspark.sql"),
        *("delorean.generation.job", "delorean.labels.materialise", "snapshotter.capture.snapshot"),
        *("snapshotter.index.cassandra", "snapshotter.index.sqlite", "snapshotter.storage.s3"),
    ]
)
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # of Linux's unshare()


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any) -> None:
    """Minutes that the profile watched of each candidate."""
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] += data.history.minutes[j]


class Driver:
    """A running driver.

    disk: a folder that becomes a disk of `size` bytes, which this driver alone sees, where the kernel allows the mount
    """

    def __init__(self, environment: Mapping[str, str] | None = None, disk: Path | None = None, size: int = 0) -> None:
        self._connection, theirs = _FORKING.Pipe()
        self._process = _FORKING.Process(target=_drive, args=(theirs, dict(environment or {}), disk, size), daemon=True)
        self._process.start()
        theirs.close()  # the driver's death is the end of the connection
        self.disk = disk
        self.mounted: bool = self.next_event()["mounted"]

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def root(self) -> Path:
        """The root folder as the driver sees it, with its disk."""
        return Path(f"/proc/{self.pid}/root") if self.mounted else Path("/")

    def start(self, job: str, **arguments: Any) -> None:
        self._connection.send((job, arguments))

    def resume(self) -> None:
        """Resume a job that waits before it publishes."""
        self._connection.send(None)

    def next_event(self) -> dict[str, Any]:
        """Wait for the next event; {"event": "dead"} when no more can come."""
        assert self._connection.poll(PATIENCE), f"no event within {PATIENCE} s"
        try:
            event: dict[str, Any] = self._connection.recv()
        except (EOFError, ConnectionResetError):
            return {"event": "dead"}
        return event

    def run(self, job: str, **arguments: Any) -> Any:
        """Run a job that must succeed, and give its result."""
        self.start(job, **arguments)
        event = self.next_event()
        assert event["event"] == "done", event
        return event["result"]

    def workers(self) -> list[psutil.Process]:
        """Spark's Python workers."""
        return python_workers(self.pid)

    def pythons(self) -> list[psutil.Process]:
        """All its processes that write what the project writes: itself, Spark's workers and their parents."""
        return [psutil.Process(self.pid), *_daemons(self.pid), *self.workers()]

    def kill_workers(self) -> None:
        """End Spark's Python workers at once."""
        _kill(self.workers())

    def kill(self) -> None:
        """End it at once, with its JVM and its workers, as a machine that loses power does."""
        if self.alive:
            driver = psutil.Process(self.pid)
            _kill([driver, *driver.children(recursive=True)])
        self._process.join()


def stop_forking() -> None:
    """End the processes from which drivers are forked: else they live as long as this one."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # nothing public ends them
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, PATIENCE)


def python_workers(driver: int) -> list[psutil.Process]:
    """Spark's Python workers: forked by daemons that its JVM has started."""
    return [worker for daemon in _daemons(driver) for worker in _living(daemon.children)]


def _daemons(driver: int) -> list[psutil.Process]:
    """They have the command of those that they fork, but are the JVM's own children."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if "pyspark.daemon" in process.cmdline() and parent is not None and parent.name() == "java":
                found.append(process)
    return found


def _living(children: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [child for child in children() if child.status() != psutil.STATUS_ZOMBIE]
    return []


# What follows runs in the driver's own process.


def _drive(connection: Connection, environment: Mapping[str, str], disk: Path | None, size: int) -> None:
    """Run job after job, until the test closes the connection."""
    os.environ.update({**environment, "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "tests/support")))})
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    connection.send({"event": "ready", "mounted": disk is not None and _mount(disk, size)})
    jobs = {
        "lay out": lay_out,
        "snapshot": snapshot,
        "look": look,
        "generate": generate_features,
        "look at features": look_at_features,
    }

    def hold() -> None:
        connection.send({"event": WRITTEN})
        connection.recv()

    with suppress(EOFError):
        while True:
            job, arguments = connection.recv()
            if "hold" in arguments:
                arguments["pause"] = hold
            try:
                result = jobs[job](**arguments)
            except Exception as error:  # noqa: BLE001  # the test sees it, whatever it is
                connection.send({"event": "failed", "error": f"{type(error).__name__}: {error}"})
            else:
                connection.send({"event": "done", "result": result})


def _mount(disk: Path, size: int) -> bool:
    """Mount a disk of so many bytes that only this process and its children see; False where the kernel refuses."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None)
    if libc.unshare(_NEW_MOUNTS | _NEW_USER) != 0:
        return False
    for name, value in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(value)
    mounted: int = libc.mount(b"none", os.fsencode(disk), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode())
    return mounted == 0


@cache
def spark_of_driver() -> Any:
    """Spark of this process, or of the cluster that its environment names, with the settings beside it."""
    from snapshotter.spark.session import spark_session

    given: dict[str, str] = json.loads(os.environ.get(SETTINGS, "{}"))
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        **given,
    }
    named = {name.replace(".", "__"): value for name, value in settings.items()}
    return spark_session("to be killed", os.environ.get(MASTER, "local[2,2]"), **named)


def lay_out(index: str, storage: str, profiles: int, videos: int) -> None:
    """Publish a context set of so many profiles, and lay a snapshot and label data of theirs at rest.

    videos: of each label row
    """
    import pyarrow as pa
    from project_at_rest import Project, long_labels

    from delorean.labels import LabelColumns
    from delorean.labels.materialise import materialise_labels
    from schemas.data_keys import context_variable
    from snapshotter.index import open_index
    from snapshotter.records import ContextSet
    from snapshotter.selection.context_sets import context_set_schema
    from snapshotter.storage import open_storage
    from snapshotter.storage.parquet import write_parquet

    with open_index(index) as opened:
        project = Project(open_storage(storage), opened)
        key = (context_variable("profile_id", "int64"), context_variable("country", "string"))
        schema = context_set_schema(key)
        columns = {"profile_id": range(profiles), "country": ["US"] * profiles, "experiments": [[]] * profiles}
        table = pa.table(columns).cast(schema)
        file = write_parquet(project.storage, "context_sets/2026-01-05/0.parquet", table, schema)
        opened.publish_context_set(
            ContextSet.of_one_key("2026-01-05-test", date(2026, 1, 5), ("all",), key, (file,), ())
        )
        watched = [{"video_id": video, "minutes": float(video)} for video in range(4)]
        project.history([((p,), 10, watched[: p % 5]) for p in range(profiles)], "at-rest", 2)
        rows = long_labels([(p, 20, v, (p * v) % 7 % 2) for p in range(profiles) for v in range(videos)])
        materialise_labels(rows, LabelColumns(("video_id",)), project.storage, labels_id="labels", buckets=2)


def snapshot(
    index: str,
    storage: str,
    proxies: list[str],
    run_id: str,
    spark: bool = False,
    hold: bool = False,
    pause: Callable[[], None] | None = None,
) -> str:
    """Take a snapshot; every page of answers is on disk at once. hold: pause when the files are written."""
    from snapshotter.capture import SnapshotOptions, take_snapshot
    from snapshotter.index import open_index

    with open_index(index) as opened:
        publish = opened.publish_run

        def publish_later(run: Any) -> bool:
            if hold and pause is not None:
                pause()
            return publish(run)

        opened.publish_run = publish_later  # type: ignore[method-assign]  # the moment before it
        contexts = opened.context_set(date(2026, 1, 5))
        session = spark_of_driver() if spark else None
        options = SnapshotOptions(buckets=2, page=4, keep_every=timedelta())
        taken = take_snapshot(session, contexts, ["history"], proxies, storage, opened, run_id, options)
        return taken.run_id


def generate_features(
    index: str,
    storage: str,
    name: str,
    run_id: str,
    spark: bool = False,
    hold: int = 0,
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Generate features of the labels at rest. hold: pause with so many of the two buckets written."""
    from delorean.generation import generate
    from delorean.labels import load_labels
    from encoders import FeatureModel
    from snapshotter.index import open_index
    from snapshotter.storage import open_storage

    def progress(_: str, done: int, __: int) -> None:
        if done == hold and pause is not None:
            pause()

    place = open_storage(storage)
    with open_index(index) as opened:
        made = generate(
            *(load_labels("labels", place), FeatureModel([minutes_watched]), opened, place, name),
            run_id=run_id,
            spark=spark_of_driver() if spark else None,
            progress=progress,
        )
    return {"version": made.version, "digest": asdict(made.digest)}


def look(index: str, storage: str, run_id: str) -> dict[str, Any]:
    """Look at all snapshots that are visible, as a stranger would, and at what one run has left."""
    return {"runs": _published(index, storage), "left": left(storage, run_id)}


def _published(index: str, storage: str) -> dict[str, Any]:
    """Every published run, read to its last row, checksums and all."""
    from snapshotter.index import open_index
    from snapshotter.storage import open_storage
    from snapshotter.storage.parquet import read_parquet

    place, found = open_storage(storage), {}
    with open_index(index) as opened:
        for run in opened.runs():
            [taken] = run.services
            rows = [row for file in taken.files for row in read_parquet(place, file).to_pylist()]
            counts = {status.value: count for status, count in taken.counts.items() if count}
            found[run.run_id] = {"rows": _by_profile(rows), "counts": counts, "confidence": taken.confidence}
            assert opened.snapshots("history", datetime(2000, 1, 1, tzinfo=UTC), datetime.now(UTC))
    return found


def left(storage: str, run_id: str) -> dict[str, Any]:
    """The rows in whole files that a run has left, published or not."""
    import pyarrow.parquet as pq

    from snapshotter.storage import open_storage

    place, found = open_storage(storage), []
    for file in place.list(f"snapshots/history/{run_id}"):
        if file.path.endswith(".parquet"):
            with place.open_input(file.path) as opened:
                found += pq.read_table(opened).to_pylist()
    return _by_profile(found)


def look_at_features(index: str, storage: str, name: str) -> dict[str, Any]:  # all jobs get both
    """Look at the newest version of a feature set, by deltalake, as any reader does."""
    from delorean.feature_sets.table import open_table, table_uri
    from delorean.feature_sets.versions import feature_sets
    from snapshotter.storage import open_storage
    from snapshotter.storage.delta_version import DeltaVersion

    place = open_storage(storage)
    if name not in feature_sets(place):
        return {"version": None}
    table = open_table(table_uri(place, name))
    rows = DeltaVersion.of(table, table_uri(place, name)).to_arrow().sort_by("profile_id")
    return {
        "version": table.version(),
        "features": dict(zip(rows["profile_id"].to_pylist(), rows["minutes_watched"].to_pylist(), strict=True)),
    }


def _by_profile(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(row["profile_id"]): [str(row["captured_at"]), row["value"]] for row in rows}
