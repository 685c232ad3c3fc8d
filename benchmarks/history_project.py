"""A project that captures three services daily, for the benchmark of years of history.

The index is real; data files exist only around the newest week of labels, so opening any other fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel, feature_encoder
from schemas.data_keys import context_variable, item, service_element
from schemas.hashing import bucket_of
from schemas.services import Service, Status
from schemas.tables import TIME, snapshot_schema
from snapshotter.index import open_index
from snapshotter.records import ContextSet, DataFile, ServiceSnapshot, SnapshotRun, to_micros
from snapshotter.selection.context_sets import context_set_schema
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import write_parquet

FIRST = datetime(2023, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = 7 * DAY
BUCKETS = 16
EVENTS = "list<struct<video_id: int64, minutes: float, watched_at: timestamp[us, UTC]>>"
PROFILE = context_variable("profile_id", "int64")
ELEMENTS = tuple(service_element(name, EVENTS) for name in ("viewing", "searches", "ratings"))
SERVICES = tuple(Service(f"{element.name}_service", element, (PROFILE,)) for element in ELEMENTS)


@feature_encoder(data=list(ELEMENTS), features=["events"])
def events(context: Any, items: Any, data: Any, out: Any) -> None:  # noqa: ARG001  # the order is the interface
    """How many events the three services know of."""
    for i in range(len(items.video_id)):
        out.events[i] = len(data.viewing.video_id) + len(data.searches.video_id) + len(data.ratings.video_id)


MODEL = FeatureModel([events])


@dataclass(frozen=True)
class Project:
    """A project with a run on each day. uris: of its indices, with equal contents."""

    storage_uri: str
    uris: dict[str, str]
    days: int
    contexts: int

    def make(self) -> None:
        """Publish the runs of all days, with data in those that the last week of labels needs."""
        storage = open_storage(self.storage_uri)
        real = [self._snapshots(day, storage) for day in range(self.days - 10, self.days)]
        runs = [self._snapshots(day, None) for day in range(self.days - 10)] + real
        sets = [self._context_set(day, storage if day >= self.days - 10 else None) for day in range(self.days)]
        for uri in self.uris.values():
            with open_index(uri) as index:
                for snapshots in runs:
                    run_id = snapshots[0].run_id
                    assert index.publish_run(SnapshotRun(run_id, "set", FIRST, snapshots))
                for context_set in sets:
                    assert index.publish_context_set(context_set)

    def weeks(self) -> Iterator[tuple[str, datetime]]:
        """Yield the weeks of labels that are planned, and when they begin."""
        yield "newest", FIRST + (self.days - 7) * DAY
        yield "middle", FIRST + self.days // 2 * DAY
        yield "oldest", FIRST + DAY / 2

    def labels(self) -> Labels:
        """Materialise label rows over the newest week, of contexts that were captured."""
        count = self.contexts
        chance = np.random.default_rng(7)
        start = FIRST + (self.days - 7) * DAY + DAY / 2
        times = to_micros(start) + chance.integers(0, 6 * 86_400 * 10**6, count)
        rows = pa.table(
            {
                "profile_id": np.arange(count),
                "time": pa.array(times).cast(TIME),
                "outcome_at": pa.array(times + 1).cast(TIME),
                "video_id": chance.integers(0, 100, count),
                "label": np.ones(count, np.float32),
            }
        )
        columns = LabelColumns(("video_id",))
        return materialise_labels(rows, columns, open_storage(self.storage_uri), buckets=BUCKETS)

    def _context_set(self, day: int, storage: Storage | None) -> ContextSet:
        """Return the contexts of a day. storage: None: their file does not exist."""
        path = f"context_sets/{day}.parquet"
        if storage is None:
            file = DataFile(path, self.contexts, 823_211, f"{hash(path) % 2**64:032x}", 0)
        else:
            chosen = [{"experiment": "homepage", "stratum": "all", "probability": 0.1}]
            columns = [pa.array(np.arange(self.contexts)), [chosen] * self.contexts]
            table = pa.table(columns, context_set_schema((PROFILE,)))
            file = write_parquet(storage, path, table, table.schema)
        date = (FIRST + day * DAY).date()
        return ContextSet.of_one_key(f"set-{day}", date, ("homepage",), (PROFILE,), (file,))

    def _snapshots(self, day: int, storage: Storage | None) -> tuple[ServiceSnapshot, ...]:
        """Return the snapshots of a day. storage: None: their files do not exist."""
        captured = FIRST + day * DAY
        counts = {Status.OK: self.contexts - 40, Status.TIMEOUT: 30, Status.ERROR: 10}
        profile = {"rows": float(self.contexts), "confidence": 0.998, "mean_bytes": 913.5}
        return tuple(
            ServiceSnapshot(
                f"{captured:%Y-%m-%d}-daily",
                service,
                PROFILE.name,
                BUCKETS,
                counts,
                captured,
                captured + timedelta(minutes=20),
                tuple(self._files(service, captured, storage)),
                {Status.TIMEOUT: "no answer within 250 ms", Status.ERROR: "503 Service Unavailable"},
                profile,
            )
            for service in SERVICES
        )

    def _files(self, service: Service, captured: datetime, storage: Storage | None) -> Iterator[DataFile]:
        paths = [f"snapshots/{service.name}/{captured:%F}/{bucket:05d}-a1b2c3.parquet" for bucket in range(BUCKETS)]
        if storage is None:
            rows = self.contexts // BUCKETS
            yield from (DataFile(path, rows, 923_211, f"{hash(path) % 2**64:032x}", i) for i, path in enumerate(paths))
            return
        profiles = np.arange(self.contexts)
        buckets = bucket_of(pa.chunked_array([profiles]), BUCKETS)
        at = to_micros(captured)
        for bucket, path in enumerate(paths):
            keys = profiles[buckets == bucket]
            value = [{"video_id": bucket, "minutes": 1.0, "watched_at": captured}]
            columns = [pa.array(keys), pa.array(at + keys % 10**6).cast(TIME), [value] * len(keys)]
            table = pa.table(columns, snapshot_schema(service))
            yield write_parquet(storage, path, table, table.schema, bucket)


def a_week(start: datetime) -> Labels:
    """Return label data over a week, without files."""
    return Labels("week", (PROFILE,), (item("video_id", "int64"),), PROFILE.name, BUCKETS, (), 0, start, start + WEEK)
