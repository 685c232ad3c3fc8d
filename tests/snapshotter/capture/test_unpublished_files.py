from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from schemas.data_keys import context_variable, global_element, service_element
from schemas.services import Service, Status
from snapshotter.capture.unpublished_files import unpublished_files
from snapshotter.global_elements import publish_global
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, ServiceSnapshot, SnapshotRun
from snapshotter.storage.local import LocalStorage
from snapshotter.storage.parquet import write_parquet

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
TABLE = pa.table({"video_id": [1]})
HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))
DAY = timedelta(days=1)


def publish_all(storage: LocalStorage, index: SnapshotIndex, context_set: ContextSet) -> None:
    """Publish one of everything."""
    index.publish_context_set(context_set)
    publish_global(TABLE, global_element("videos", "struct<video_id: int64>"), NOON, storage, index, "v1")
    file = write_parquet(storage, "snapshots/history/r1/00000-a.parquet", TABLE, TABLE.schema)
    taken = ServiceSnapshot("r1", HISTORY, None, 1, {Status.OK: 1}, NOON, NOON, (file,), {})
    index.publish_run(SnapshotRun("r1", context_set.context_set_id, NOON, (taken,)))


def age(storage: LocalStorage, by: timedelta) -> None:
    for file in storage.list(""):
        then = time.time() - by.total_seconds()
        os.utime(storage.root / file.path, (then, then))


def found(storage: LocalStorage, index: SnapshotIndex) -> list[str]:
    return [file.path for file in unpublished_files(storage, index, datetime.now(UTC) - DAY)]


def test_only_old_files_that_nobody_published_are_found(
    storage: LocalStorage, index: SnapshotIndex, context_set: ContextSet
) -> None:
    publish_all(storage, index, context_set)
    orphans = [
        "context_sets/2026-01-05/x/00000-dead.parquet",
        "context_sets/2026-01-05/x/_delta_log/00000000000000000000.json",
        "globals/books/v1/dead.parquet",
        "globals/videos/v1/dead.parquet",
        "snapshots/history/r1/.00000-b.parquet.x.tmp",
        "snapshots/history/r1/00000-b.parquet",
    ]
    others = ["context_sets/2026-01-05/_delta_log/00000000000000000000.json", "features/day/0.parquet", "notes.txt"]
    for path in [*orphans, *others]:
        storage.create(path, b"dead")
    age(storage, DAY * 2)
    storage.create("snapshots/history/r2/00000-young.parquet", b"being written")
    assert found(storage, index) == orphans


def test_a_commit_of_a_context_set_that_was_only_half_written_goes_its_log_stays(
    storage: LocalStorage, index: SnapshotIndex, context_set: ContextSet
) -> None:
    publish_all(storage, index, context_set)
    half = f"{context_set.groups[0].table}/_delta_log/_commit_x.json.tmp"
    for path in (half, f"{context_set.groups[0].table}/_delta_log/00000000000000000000.json"):
        storage.create(path, b"{}")
    age(storage, DAY * 2)
    assert found(storage, index) == [half]


def test_the_plan_of_a_run_goes_with_the_last_of_what_it_has_left(
    storage: LocalStorage, index: SnapshotIndex, context_set: ContextSet
) -> None:
    publish_all(storage, index, context_set)
    dead = ["snapshots/_plans/r1.json", "snapshots/_plans/r2.json", "snapshots/history/r2/00000-dead.parquet"]
    going_on = ["snapshots/_plans/r3.json", "snapshots/history/r3/00000-old.parquet"]
    for path in [*dead, *going_on]:
        storage.create(path, b"old")
    age(storage, DAY * 2)
    storage.create("snapshots/my_list/r3/00000-young.parquet", b"being written")
    assert found(storage, index) == [*dead, going_on[1]]


def test_a_storage_without_anything_is_no_error(storage: LocalStorage, index: SnapshotIndex) -> None:
    assert found(storage, index) == []


def test_what_was_withdrawn_goes(storage: LocalStorage, index: SnapshotIndex, context_set: ContextSet) -> None:
    publish_all(storage, index, context_set)
    age(storage, DAY * 2)
    assert found(storage, index) == []
    index.withdraw_run("r1", "wrong", "ann")
    index.withdraw_global("videos", "v1", "wrong", "ann")
    gone = found(storage, index)
    assert {path.split("/")[0] for path in gone} == {"globals", "snapshots"}
    assert len(gone) == 2
