"""Finds what died: files of our folders that were written but never published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from snapshotter.capture.run_plan import plan_path
from snapshotter.index import SnapshotIndex, iterate_context_sets, iterate_runs
from snapshotter.records import END_OF_TIME, DataFile, RecordKind, UnreadableRecord
from snapshotter.storage import Storage, StoredFile

FOLDERS = ("context_sets", "globals", "snapshots")


def unpublished(storage: Storage, index: SnapshotIndex, latest: datetime) -> list[StoredFile]:
    """Give files written before a moment that no published record names.

    latest: long enough ago for every job that wrote before to have ended: its files are not published before it ends

    A published file is never among them, nor one of a job that publishes meanwhile: files are listed before the index
    is read. The log of a published context set's table is needed with it, and the plan of a run as long as anything
    that it left. Where a record cannot be read, all files that it may name are needed: see `SnapshotIndex.unreadable`.
    """
    files = [file for folder in FOLDERS for file in storage.list(folder)]
    old = {file.path: file for file in files if file.modified_at < latest}
    elements = {path.split("/")[1] for path in old if path.startswith("globals/")}
    tables = set()
    for named in _published(index, elements):
        old.pop(named.path, None)
        if named.path.startswith("context_sets/"):
            tables.add(named.path.rpartition("/")[0])
    needed = _plans({file.path for file in files if file.modified_at >= latest})
    unknown = tuple(_folders_of(index.unreadable()))
    return [
        file
        for path, file in old.items()
        if path not in needed and not _of_log(path, tables) and not _is_in(path, unknown)
    ]


def is_half_written(path: str) -> bool:
    """Tell by its name what a killed writer has left: our storage's temporary files, and deltalake's.

    >>> [is_half_written(path) for path in ("a/.0.parquet.x.tmp", "a/_delta_log/0.json#1", "a/_delta_log/0.json")]
    [True, True, False]
    """
    return re.search(r"(\.tmp|#\d+)$", path) is not None


def _published(index: SnapshotIndex, elements: Iterable[str]) -> Iterator[DataFile]:
    """Yield the published files of runs, context sets and elements, reading records in pages."""
    for run in iterate_runs(index):
        for snapshot in run.services:
            yield from snapshot.files
    for chosen in iterate_context_sets(index):
        yield from chosen.files
    for element in sorted(elements):
        for version in index.global_versions(element, END_OF_TIME, skip_unreadable=True):
            yield from version.files


def _folders_of(records: Iterable[UnreadableRecord]) -> Iterator[str]:
    """Give patterns of the folders in which the files of records that cannot be read lie, and of runs their plans."""
    for record in records:
        name = record.name
        if name.kind is RecordKind.RUN:
            yield f"snapshots/*/{name.id}"
            yield plan_path(name.id)
        elif name.kind is RecordKind.GLOBAL_VERSION:
            yield f"globals/{name.element}/{name.id}"
        else:
            yield f"context_sets/{name.id}"


def _is_in(path: str, folders: Iterable[str]) -> bool:
    """Tell whether a path is one of these or lies in one; a part * stands for any."""
    parts = path.split("/")
    return any(
        len(parts) >= len(wanted) and all(one in (part, "*") for one, part in zip(wanted, parts, strict=False))
        for wanted in (folder.split("/") for folder in folders)
    )


def _of_log(path: str, tables: set[str]) -> bool:
    """Tell whether a file is one of a table's log, and no commit that was only half written."""
    table, inside, _ = path.partition("/_delta_log/")
    return bool(inside) and table in tables and not is_half_written(path)


def _plans(young: set[str]) -> set[str]:
    """Name the plans of the runs that have left something young: a job may go on with them."""
    parts = [path.split("/") for path in young if path.startswith("snapshots/")]
    return {plan_path(names[2]) for names in parts if len(names) == 4}
