"""What the snapshot benchmark measures in: a store, context sets; services and proxies in processes of their own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from delorean.demo.processes import Processes, Running
from schemas.data_keys import context_variable
from schemas.tables import contexts_schema
from snapshotter.capture import SnapshotOptions, take_snapshot
from snapshotter.index import SnapshotIndex, open_index
from snapshotter.records import ContextSet, SnapshotRun
from snapshotter.spark.progress import Progress
from snapshotter.spark.session import spark_session
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import write_parquet

KEY = (context_variable("profile_id", "int64"),)
TYPES: Final = {
    "history": "list<struct<video_id: int64, minutes: float, watched_at: timestamp[us, UTC]>>",
    "my_list": "list<int64>",
    "ratings": "list<struct<video_id: int64, rating: float>>",
}
PATIENT: Final = {"timeout_seconds": 10.0}  # where a busy machine must not look like a slow service
READY = r"ready on (\S+:\d+)"


@dataclass(frozen=True)
class ServiceSpec:
    """One service as services.toml declares it.

    kind, behaviour: of `benchmarks.fast_service`
    fields: more of services.toml
    """

    kind: str
    behaviour: str = "ok"
    batched: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    def toml(self, name: str, address: str) -> str:
        """Write the service's table."""
        path = f"http://{address}/{self.behaviour}/{self.kind}"
        url = {"batch_url": path} if self.batched else {"url": path + "/{profile_id}"}
        lines = [f"{key} = {_toml(value)}" for key, value in {"type": TYPES[self.kind], **url, **self.fields}.items()]
        return "\n".join([f"[services.{name}]", 'key = { profile_id = "int64" }', *lines, ""])


@dataclass(frozen=True)
class Started:
    """A process that listens. address: "host:port"."""

    running: Running
    address: str

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.running.process.pid

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.running.process.terminate()
        self.running.process.wait(30)

    def kill(self) -> None:
        """Kill it, and what it has started, as a power cut would."""
        os.killpg(self.pid, signal.SIGKILL)
        self.running.process.wait()


class World:
    """A folder with a store and an index, and the processes started in it. Use it as a context manager."""

    def __init__(self, folder: Path, master: str = "local[2]") -> None:
        self.folder, self.master = folder, master
        self.storage_uri = f"file://{folder}/store"
        self.index_uri = f"sqlite://{folder}/index.db"
        self._stack = ExitStack()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        self._processes = self._stack.enter_context(Processes(self.folder / "logs"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def index(self) -> SnapshotIndex:
        """The index, opened once."""
        return self._stack.enter_context(open_index(self.index_uri))

    @cached_property
    def spark(self) -> SparkSession:
        """Spark, started when it is first needed."""
        spark = spark_session("snapshots", self.master, spark__ui__enabled="false", spark__driver__memory="2g")
        self._stack.callback(spark.stop)
        return spark

    def context_set(self, contexts: int, first: int = 0) -> ContextSet:
        """Write a set of so many profiles, from a first one on, scattered over two files."""
        name = self.new_name("set")
        profiles = np.random.default_rng(7).permutation(contexts).astype(np.int64) + first
        schema = contexts_schema(KEY)
        files = tuple(
            write_parquet(
                open_storage(self.storage_uri),
                f"context_sets/2026-01-05/{name}/{part}.parquet",
                pa.table([pa.array(profiles[part::2])], schema=schema),
                schema,
            )
            for part in range(2)
        )
        return ContextSet.of_one_key(name, date(2026, 1, 5), ("bench",), KEY, files, ())

    def services(self, *, log: bool = False) -> Started:
        """Start a process of cheap services."""
        return self._start("services", ["-m", "benchmarks.fast_service", *(["--log"] if log else [])])

    def proxy(
        self, services: Started, specs: Mapping[str, ServiceSpec], server: Mapping[str, Any] | None = None
    ) -> Started:
        """Start a proxy before services. server: fields of services.toml's [server]."""
        name = self.new_name("proxy")
        text = "\n".join(one.toml(name, services.address) for name, one in specs.items())
        if server:
            text += "\n".join(["[server]", *(f"{key} = {_toml(value)}" for key, value in server.items()), ""])
        config = self.folder / f"{name}.toml"
        config.write_text(text)
        return self._start(name, ["-m", "delorean", "prana", "serve", "--config", str(config), "--port", "0"])

    def job(self, name: str, arguments: Sequence[str]) -> Running:
        """Start a Python program that ends by itself."""
        return self._processes.start(self.new_name(name), arguments)

    def take(
        self,
        contexts: ContextSet,
        proxies: Sequence[str],
        services: Sequence[str] | None = None,
        run_id: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> SnapshotRun:
        """Take a snapshot. options: see `SnapshotOptions`."""
        run_id = run_id or self.new_name("run")
        where = self.storage_uri, self.index, run_id, SnapshotOptions(**options)
        return take_snapshot(self.spark, contexts, services, proxies, *where, progress=progress)

    def new_name(self, kind: str) -> str:
        """Make a name that nothing has."""
        return f"{kind}-{next(self._numbers)}"

    def written(self, run_id: str) -> dict[str, np.ndarray]:
        """Read whose answers a run has written until now: service's name → profile ids, repeated ones too."""
        found: dict[str, list[np.ndarray]] = {}
        for path in (self.folder / "store" / "snapshots").glob(f"*/{run_id}/**/*.parquet"):
            service = path.relative_to(self.folder / "store" / "snapshots").parts[0]
            found.setdefault(service, []).append(pq.read_table(path, columns=["profile_id"])["profile_id"].to_numpy())
        return {service: np.concatenate(parts) for service, parts in found.items()}

    def _start(self, name: str, arguments: Sequence[str]) -> Started:
        running = self.job(name, arguments)
        return Started(running, running.wait_for(READY, patience_seconds=30))


def log_of(services: Started, behaviour: str, kind: str) -> np.ndarray:
    """Fetch a service's own log: rows of (begun, ended, profile id), nanoseconds on the monotonic clock."""
    with urllib.request.urlopen(f"http://{services.address}/log/{behaviour}/{kind}", timeout=60) as response:
        return np.frombuffer(response.read(), np.int64).reshape(-1, 3)


def _toml(value: Any) -> str:
    return json.dumps(value)  # the same for numbers, booleans and plain texts
