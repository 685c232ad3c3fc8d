"""Finds files that were written but never published, such as those of jobs that died."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from snapshotter.capture.run_plan import plan_path
from snapshotter.index import SnapshotIndex, iterate_runs
from snapshotter.records import END_OF_TIME, DataFile, RecordKind, UnreadableRecord
from snapshotter.storage import Storage, StoredFile

FOLDERS = ("context_sets", "globals", "snapshots")


def unpublished_files(storage: Storage, index: SnapshotIndex, latest: datetime) -> list[StoredFile]:
    """Return files written before a moment that no published record names.

    latest: long enough ago for every job that wrote before it to have ended: a job publishes its files when it ends

    The result contains no published file, nor one of a job that publishes meanwhile, because files are listed before
    the index is read. The log of a published context set's table is kept with it, and the plan of a run as long as any
    recent file of it. Where a record cannot be read, all files that it may name are kept: see
    `SnapshotIndex.unreadable`.
    """
    files = [file for folder in FOLDERS for file in storage.list(folder)]
    old = {file.path: file for file in files if file.modified_at < latest}
    elements = {path.split("/")[1] for path in old if path.startswith("globals/")}
    tables = set()
    for published in _published(index, elements):
        old.pop(published.path, None)
        if published.path.startswith("context_sets/"):
            tables.add(published.path.rpartition("/")[0])
    plans = _plans_of({file.path for file in files if file.modified_at >= latest})
    unreadable = tuple(_folders_of(index.unreadable()))
    return [
        file
        for path, file in old.items()
        if path not in plans and not _is_log_of(path, tables) and not _is_in(path, unreadable)
    ]


def is_half_written(path: str) -> bool:
    """Whether a name is that of a killed writer's temporary file: one of our storage, or of deltalake.

    >>> [is_half_written(path) for path in ("a/.0.parquet.x.tmp", "a/_delta_log/0.json#1", "a/_delta_log/0.json")]
    [True, True, False]
    """
    return re.search(r"(\.tmp|#\d+)$", path) is not None


def _published(index: SnapshotIndex, elements: Iterable[str]) -> Iterator[DataFile]:
    """Yield the published files of runs, context sets and global elements, reading records in pages."""
    for run in iterate_runs(index):
        for snapshot in run.services:
            yield from snapshot.files
    for context_set in index.iterate_context_sets():
        yield from context_set.files
    for element in sorted(elements):
        for version in index.global_versions(element, END_OF_TIME, skip_unreadable=True):
            yield from version.files


def _folders_of(records: Iterable[UnreadableRecord]) -> Iterator[str]:
    """Yield patterns of the folders that unreadable records may name files in, and of runs their plans."""
    for record in records:
        name = record.name
        if name.kind is RecordKind.RUN:
            yield f"snapshots/*/{name.id}"
            yield plan_path(name.id)
        elif name.kind is RecordKind.GLOBAL_VERSION:
            yield f"globals/{name.element}/{name.id}"
        else:
            yield f"context_sets/{name.day}"


def _is_in(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of these or lies in one; a part * matches any."""
    parts = path.split("/")
    return any(
        len(parts) >= len(pattern) and all(one in (part, "*") for one, part in zip(pattern, parts, strict=False))
        for pattern in (folder.split("/") for folder in folders)
    )


def _is_log_of(path: str, tables: set[str]) -> bool:
    """Whether a file is in the log of one of these tables, and not a commit that was only half written."""
    table, inside, _ = path.partition("/_delta_log/")
    return bool(inside) and table in tables and not is_half_written(path)


def _plans_of(recent: set[str]) -> set[str]:
    """Return the plans of the runs that wrote these files: a job may continue them."""
    parts = [path.split("/") for path in recent if path.startswith("snapshots/")]
    return {plan_path(names[2]) for names in parts if len(names) == 4}
