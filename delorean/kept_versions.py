"""Tells of a feature set's files which versions need them, and which nobody does."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from delorean.generation.feature_set import FOLDER, versions_of
from schemas.errors import ConfigError, StorageError
from snapshotter.storage import Storage, StoredFile
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

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
    if not any(path.startswith("_delta_log/") for path in inside):
        return KeptVersions(name, uncommitted=tuple(old.values()))
    uri = storage.uri_of(f"{FOLDER}/{name}")
    try:
        newest = int(delta_table(uri).version())
        kept = {v for v in range(newest + 1) if _is_kept(v, commits, latest)} | pinned | {newest}
        needed = {path for version in kept for path in _paths(uri, version)}
        labels = _labels(uri, kept)
    except (ConfigError, StorageError) as error:
        return KeptVersions(name, unknown=f"{FOLDER}/{name} was left alone: {error}")
    free = {path: file for path, file in old.items() if path not in needed}
    last = _last_versions(uri, free, set(range(newest)) - kept)
    superseded: dict[int, tuple[datetime, list[StoredFile]]] = {}
    for path, version in sorted(last.items()):
        when = commits[version + 1].modified_at if version + 1 in commits else latest
        superseded.setdefault(version, (when, []))[1].append(free[path])
    return KeptVersions(name, labels, tuple(file for path, file in free.items() if path not in last), superseded)


def _labels(uri: str, versions: set[int]) -> frozenset[str]:
    """Give the label data that versions were made from. Raises ConfigError for one whose log is gone."""
    lineages = {each.version: each.lineage for each in versions_of(uri)}
    for version in versions:
        if version not in lineages:
            raise ConfigError.because(f"the log of version {version} is gone")
    return frozenset(lineages[version]["labels"] for version in versions if "labels" in lineages[version])


def _is_kept(version: int, commits: Mapping[int, StoredFile], latest: datetime) -> bool:
    """Tell whether a version was the newest of late: as far as the listing goes, and since."""
    if version >= max(commits, default=0):
        return True
    return version + 1 in commits and commits[version + 1].modified_at >= latest


def _is_data(path: str) -> bool:
    """Tell data from what belongs to the table itself, which is none of ours to remove."""
    return path.endswith(".parquet") and not any(part.startswith("_") for part in path.split("/"))


def _paths(uri: str, version: int) -> Iterable[str]:
    return (file.path for file in DeltaVersion.of(delta_table(uri, version), uri).files)


def _last_versions(uri: str, free: Mapping[str, StoredFile], versions: set[int]) -> dict[str, int]:
    """Give for each file the last version that had it, if any did."""
    last: dict[str, int] = defaultdict(int)
    for version in sorted(versions) if free else ():
        try:
            last |= dict.fromkeys(free.keys() & set(_paths(uri, version)), version)
        except StorageError:
            continue  # its log is gone, so nobody can tell what it had; nobody can read it either
    return dict(last)
