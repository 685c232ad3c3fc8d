"""Removes what died: files that were written but never published."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.plan import plan_path
from snapshotter.records import END_OF_TIME
from snapshotter.storage import Storage

FOLDERS = ("context_sets", "globals", "snapshots")
SAFE_AGE = timedelta(hours=1)


def vacuum(storage: Storage, index: SnapshotIndex, older_than: timedelta) -> list[str]:
    """Delete files of our folders that no published record names, and give their paths.

    older_than: at least an hour, and longer than any job runs: a job's files are not published before it ends

    A published file is never touched, nor one of a job that publishes meanwhile: files are listed before the index
    is read. The plan of a run goes with the last of what it has left.
    """
    if older_than < SAFE_AGE:
        raise ConfigError.because(
            f"older_than is {older_than}, expected at least {SAFE_AGE}: files of running jobs are not published yet"
        )
    latest = datetime.now(UTC) - older_than
    files = [file for folder in FOLDERS for file in storage.list(folder)]
    old = [file.path for file in files if file.modified_at < latest]
    published = _published(index, {path.split("/")[1] for path in old if path.startswith("globals/")})
    needed = published | _plans({file.path for file in files if file.modified_at >= latest})
    orphans = [path for path in old if path not in needed]
    storage.delete(orphans)
    return orphans


def _published(index: SnapshotIndex, elements: set[str]) -> set[str]:
    runs = [file for run in index.runs() for snapshot in run.services for file in snapshot.files]
    sets = [file for context_set in index.context_sets(date.max) for file in context_set.files]
    versions = [version for element in elements for version in index.global_versions(element, END_OF_TIME)]
    return {file.path for file in [*runs, *sets, *(file for version in versions for file in version.files)]}


def _plans(young: set[str]) -> set[str]:
    """Name the plans of the runs that have left something young: a job may go on with them."""
    parts = [path.split("/") for path in young if path.startswith("snapshots/")]
    return {plan_path(names[2]) for names in parts if len(names) == 4}
