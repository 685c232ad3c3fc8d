"""A small project at rest: snapshots and versions published as a snapshot job would."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from schemas.data_keys import context_variable, service_element
from schemas.hashing import bucket_of
from schemas.services import Service, Status
from schemas.tables import TIME, snapshot_schema
from snapshotter.index import SnapshotIndex
from snapshotter.records import ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage
from snapshotter.storage.parquet import write_parquet

START = datetime(2026, 5, 1, tzinfo=UTC)

HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")
MOOD = service_element("mood", "string")
PROFILE = context_variable("profile_id", "int64")
COUNTRY = context_variable("country", "string")


def minutes(n):
    return START + timedelta(minutes=n)


@dataclass
class Project:
    storage: Storage
    index: SnapshotIndex

    def publish(self, service, rows, run_id, buckets=1, bucket_variable="profile_id", failed=0):
        """Publish rows of (key tuple, minute of capture, value) as one service's snapshot, that failed for others."""
        schema = snapshot_schema(service)
        names = [key.name for key in service.key]
        bucketed = bucket_variable in names
        table = pa.Table.from_pylist(
            [
                dict(zip(names, key, strict=True)) | {"captured_at": minutes(at), "value": value}
                for key, at, value in sorted(rows, key=lambda row: (row[0], row[1]))
            ],
            schema=schema,
        )
        of = bucket_of(table[bucket_variable], buckets) if bucketed else [0] * len(rows)
        files = []
        for bucket in sorted(set(of)):
            part = table.filter(pa.array([b == bucket for b in of]))
            path = f"snapshots/{service.name}/{run_id}/{bucket:05d}-0.parquet"
            files.append(write_parquet(self.storage, path, part, schema, int(bucket)))
        times = [minutes(at) for _, at, _ in rows]
        snapshot = ServiceSnapshot(
            run_id=run_id,
            service=service,
            bucket_variable=bucket_variable if bucketed else None,
            buckets=buckets if bucketed else 1,
            counts={Status.OK: len(rows), Status.TIMEOUT: failed},
            captured_from=min(times, default=None),
            captured_to=max(times, default=None),
            files=tuple(files),
            reasons={},
        )
        assert self.index.publish_run(SnapshotRun(run_id, "set", START, (snapshot,)))

    def history(self, rows, run_id, buckets=1, failed=0):
        self.publish(Service("history", HISTORY, (PROFILE,)), rows, run_id, buckets, failed=failed)

    def mood(self, rows, run_id, buckets=1, failed=0):
        self.publish(Service("mood", MOOD, (PROFILE,)), rows, run_id, buckets, failed=failed)


def long_labels(rows):
    """Rows of (profile, minute, video, label), observed one minute later."""
    profile, minute, video, label = zip(*rows, strict=True)
    return pa.table(
        {
            "profile_id": pa.array(profile, pa.int64()),
            "time": pa.array([minutes(m) for m in minute], TIME),
            "video_id": pa.array(video, pa.int64()),
            "label": pa.array(label, pa.float32()),
            "outcome_at": pa.array([minutes(m + 1) for m in minute], TIME),
        }
    )
