"""A driver in a process of its own, for those who kill it, its workers, or what it writes to.

It takes jobs as lines of JSON and tells what happens as lines of JSON. A job says in "hold" whether it waits, before
it publishes what it has written, until it is told to go on.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from project_at_rest import HISTORY

from encoders import feature_encoder

PATIENCE = 300.0  # seconds, of whoever waits for a driver on a busy machine
WRITTEN = "files written"
MASTER, SETTINGS = "DRIVER_MASTER", "DRIVER_SETTINGS"  # of a driver's environment: where its Spark is, and how
_ROOT = Path(__file__).resolve().parents[2]


@feature_encoder(data=[HISTORY], features=["minutes_watched"])
def minutes_watched(context: Any, items: Any, data: Any, out: Any) -> None:
    """Minutes that the profile watched of each candidate."""
    for i in range(len(items.video_id)):
        out.minutes_watched[i] = 0.0
        for j in range(len(data.history.video_id)):
            if data.history.video_id[j] == items.video_id[i]:
                out.minutes_watched[i] += data.history.minutes[j]


class Driver:
    """A running driver. disk: a folder that is a small disk of its own, as far as the kernel lets us mount one."""

    def __init__(self, environment: Mapping[str, str] | None = None, disk: Path | None = None, size: int = 0) -> None:
        command = [sys.executable, "-c", "from driver_process import main; main()"]
        self.disk, self.mounted = disk, disk is not None and _may_mount(disk)
        if self.mounted:
            mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
            command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(disk), *command]
        paths = os.pathsep.join((str(_ROOT), str(_ROOT / "tests")))
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._told: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def root(self) -> Path:
        """Where its disk is found from outside."""
        return Path(f"/proc/{self._process.pid}/root") if self.mounted else Path("/")

    def start(self, job: str, **arguments: Any) -> None:
        self._say({"job": job, **arguments})

    def go_on(self) -> None:
        self._say({})

    def next_event(self) -> dict[str, Any]:
        """Wait for what it tells next; {"event": "dead"} when it tells nothing any more."""
        event = self._told.get(timeout=PATIENCE)
        return event or {"event": "dead"}

    def ask(self, job: str, **arguments: Any) -> Any:
        """Have something done that must succeed, and give its result."""
        self.start(job, **arguments)
        told = self.next_event()
        assert told["event"] == "done", told
        return told["result"]

    def workers(self) -> list[psutil.Process]:
        """Spark's Python workers."""
        return python_workers(self._process.pid)

    def pythons(self) -> list[psutil.Process]:
        """All its processes that write what the project writes: itself, Spark's workers and who forks them."""
        return [psutil.Process(self._process.pid), *_daemons(self._process.pid), *self.workers()]

    def kill_workers(self) -> None:
        """End Spark's Python workers at once."""
        workers = self.workers()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers, PATIENCE)

    def kill(self) -> None:
        """End it at once, with its JVM and its workers, as a machine that loses power does."""
        children = psutil.Process(self._process.pid).children(recursive=True) if self.alive else []
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        psutil.wait_procs(children, PATIENCE)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _say(self, line: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"event"'):  # a JVM may print what it likes
                self._told.put(json.loads(line))
        self._told.put(None)
        self._process.stdout.close()


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


def _may_mount(disk: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", str(disk)]
    return subprocess.run(command, capture_output=True).returncode == 0


# What follows runs in the driver's own process.


def main() -> None:
    """Do job after job."""
    jobs: dict[str, Callable[..., Any]] = {"lay out": lay_out, "snapshot": snapshot, "look": look}
    jobs |= {"generate": generate_features, "look at features": look_at_features}
    told = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no event
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = jobs[job.pop("job")](**job)
        except Exception as error:  # noqa: BLE001  # it is told, whatever it is
            print(json.dumps({"event": "failed", "error": f"{type(error).__name__}: {error}"}), file=told, flush=True)
        else:
            print(json.dumps({"event": "done", "result": result}), file=told, flush=True)


def reach(hold: bool) -> None:
    """Tell that the files are written, and wait if one is to."""
    if hold:
        print(json.dumps({"event": WRITTEN}), file=sys.__stdout__, flush=True)
        sys.stdin.readline()


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
        opened.publish_context_set(ContextSet("2026-01-05-test", date(2026, 1, 5), ("all",), key, (file,), ()))
        watched = [{"video_id": video, "minutes": float(video)} for video in range(4)]
        project.history([((p,), 10, watched[: p % 5]) for p in range(profiles)], "at-rest", 2)
        rows = long_labels([(p, 20, v, (p * v) % 7 % 2) for p in range(profiles) for v in range(videos)])
        materialise_labels(rows, LabelColumns(("video_id",)), project.storage, labels_id="labels", buckets=2)


def snapshot(index: str, storage: str, proxies: list[str], run_id: str, hold: bool = False) -> str:
    """Take a snapshot; every page of answers is on disk at once."""
    from snapshotter.capture import SnapshotOptions, take_snapshot
    from snapshotter.index import open_index

    with open_index(index) as opened:
        publish = opened.publish_run

        def held(run: Any) -> bool:
            reach(hold)
            return publish(run)

        opened.publish_run = held  # type: ignore[method-assign]  # the moment before it
        contexts = opened.context_set(date(2026, 1, 5))
        options = SnapshotOptions(buckets=2, page=4, keep_every=timedelta())
        taken = take_snapshot(spark_of_driver(), contexts, ["history"], proxies, storage, opened, run_id, options)
        return taken.run_id


def generate_features(
    index: str, storage: str, name: str, run_id: str, hold: int = 0, spark: bool = False
) -> dict[str, Any]:
    """Generate features of the labels at rest. hold: with so many of the two buckets written."""
    from delorean.generation import generate
    from delorean.labels import load_labels
    from encoders import FeatureModel
    from snapshotter.index import open_index
    from snapshotter.storage import open_storage

    place = open_storage(storage)
    with open_index(index) as opened:
        made = generate(
            *(load_labels("labels", place), FeatureModel([minutes_watched]), opened, place, name),
            run_id=run_id,
            spark=spark_of_driver() if spark else None,
            progress=lambda _, done, of: reach(done == hold),
        )
    return {"version": made.version, "digest": made.digest.to_json()}


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
    from delorean.feature_sets.table import feature_sets, open_table, table_uri
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
