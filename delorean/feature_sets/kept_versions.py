"""Tells of a feature set's files which versions need them, and which nobody does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from delorean.feature_sets.table import FOLDER, LINEAGE
from schemas.errors import ConfigError, StorageError
from snapshotter.storage import Storage, StoredFile
from snapshotter.storage.delta_history import DeltaHistory, read_history

_LOG = "_delta_log/"
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True)
class KeptVersions:
    """What of a feature set is needed, and what is not.

    labels: ids of the label data that versions which are kept were made from
    uncommitted: old files that no version ever had
    superseded: version → when the next took its place, and old files that it was the last to have
    unknown: why nobody can tell what is needed, so that nothing may go; empty where one can
    """

    name: str
    labels: frozenset[str] = frozenset()
    uncommitted: tuple[StoredFile, ...] = ()
    superseded: Mapping[int, tuple[datetime, Sequence[StoredFile]]] = field(default_factory=dict)
    unknown: str = ""


def kept_versions(
    storage: Storage, name: str, files: Sequence[StoredFile], pinned: set[int], latest: datetime
) -> KeptVersions:
    """Sort out a feature set's files.

    files: all whole ones that lie in its folder, as listed before this is called
    pinned: versions that somebody refers to
    latest: what was the newest version at this moment or later is kept too: somebody may be reading it
    """
    inside = {file.path.removeprefix(f"{FOLDER}/{name}/"): file for file in files}
    commits = {int(found[1]): file for path, file in inside.items() if (found := _COMMIT.fullmatch(path))}
    old = {path: file for path, file in inside.items() if _is_data(path) and file.modified_at < latest}
    log = [path.removeprefix(_LOG) for path in inside if path.startswith(_LOG)]
    if not log:
        return KeptVersions(name, uncommitted=tuple(old.values()))
    try:
        history = read_history(storage, f"{FOLDER}/{name}", log)
        if elsewhere := [path for path in history.spans if path.startswith("/") or ":/" in path]:
            raise StorageError.because(f"a version names files by their whole path, such as {elsewhere[0]}")
        newest = history.newest
        kept = {v for v in range(newest + 1) if _is_kept(v, commits, latest)} | pinned | {newest}
        labels, needed = _labels(history, kept), sorted(kept)
    except (ConfigError, StorageError) as error:
        return KeptVersions(name, unknown=f"{FOLDER}/{name} was left alone: {error}")
    uncommitted: list[StoredFile] = []
    superseded: dict[int, tuple[datetime, list[StoredFile]]] = {}
    free = ((history.last_version(path), path) for path in old if not history.is_in(path, needed))
    for version, path in sorted(free, key=lambda found: (-1 if found[0] is None else found[0], found[1])):
        if version is None:
            uncommitted.append(old[path])
        else:
            when = commits[version + 1].modified_at if version + 1 in commits else latest
            superseded.setdefault(version, (when, []))[1].append(old[path])
    return KeptVersions(name, labels, tuple(uncommitted), superseded)


def _labels(history: DeltaHistory, versions: set[int]) -> frozenset[str]:
    """Give the label data that versions were made from. Raises ConfigError for one whose log is gone."""
    for version in versions:
        if version > history.newest:
            raise ConfigError.because(f"there is no version {version}, which a run refers to")
        if version < history.oldest or version not in history.metadata:
            raise ConfigError.because(f"the log of version {version} is gone")
    lineages = (json.loads(history.metadata[version].get(LINEAGE, "{}")) for version in versions)
    return frozenset(lineage["labels"] for lineage in lineages if "labels" in lineage)


def _is_kept(version: int, commits: Mapping[int, StoredFile], latest: datetime) -> bool:
    """Tell whether a version was the newest of late: as far as the listing goes, and since."""
    if version >= max(commits, default=0):
        return True
    return version + 1 in commits and commits[version + 1].modified_at >= latest


def _is_data(path: str) -> bool:
    """Tell data from what belongs to the table itself, which is none of ours to remove."""
    return path.endswith(".parquet") and not any(part.startswith("_") for part in path.split("/"))
