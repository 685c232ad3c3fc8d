"""Finds what died: files of our folders that were written but never published."""

from __future__ import annotations

import re
from datetime import date, datetime

from snapshotter.index import SnapshotIndex
from snapshotter.plan import plan_path
from snapshotter.records import END_OF_TIME
from snapshotter.storage import Storage, StoredFile

FOLDERS = ("context_sets", "globals", "snapshots")


def unpublished(storage: Storage, index: SnapshotIndex, latest: datetime) -> list[StoredFile]:
    """Give files written before a moment that no published record names.

    latest: long enough ago for every job that wrote before to have ended: its files are not published before it ends

    A published file is never among them, nor one of a job that publishes meanwhile: files are listed before the index
    is read. The log of a published context set's table is needed with it, and the plan of a run as long as anything
    that it left.
    """
    files = [file for folder in FOLDERS for file in storage.list(folder)]
    old = [file for file in files if file.modified_at < latest]
    published, tables = _published(index, {file.path.split("/")[1] for file in old if file.path.startswith("globals/")})
    needed = published | _plans({file.path for file in files if file.modified_at >= latest})
    return [file for file in old if file.path not in needed and not _of_log(file.path, tables)]


def is_half_written(path: str) -> bool:
    """Tell by its name what a killed writer has left: our storage's temporary files, and deltalake's.

    >>> [is_half_written(path) for path in ("a/.0.parquet.x.tmp", "a/_delta_log/0.json#1", "a/_delta_log/0.json")]
    [True, True, False]
    """
    return re.search(r"(\.tmp|#\d+)$", path) is not None


def _published(index: SnapshotIndex, elements: set[str]) -> tuple[set[str], set[str]]:
    """Give the paths of published files, and of published tables."""
    runs = [file for run in index.runs() for snapshot in run.services for file in snapshot.files]
    sets = index.context_sets(date.max)
    versions = [version for element in elements for version in index.global_versions(element, END_OF_TIME)]
    others = [file for chosen in sets for file in chosen.files] + [file for each in versions for file in each.files]
    return {file.path for file in [*runs, *others]}, {chosen.table for chosen in sets}


def _of_log(path: str, tables: set[str]) -> bool:
    """Tell whether a file is one of a table's log, and no commit that was only half written."""
    table, inside, _ = path.partition("/_delta_log/")
    return bool(inside) and table in tables and not is_half_written(path)


def _plans(young: set[str]) -> set[str]:
    """Name the plans of the runs that have left something young: a job may go on with them."""
    parts = [path.split("/") for path in young if path.startswith("snapshots/")]
    return {plan_path(names[2]) for names in parts if len(names) == 4}
