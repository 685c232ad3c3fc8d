"""Which files of a feature set are needed by which versions, and which are not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import FOLDER, LINEAGE
from schemas.errors import ConfigError, StorageError
from snapshotter.storage import Storage, StoredFile
from snapshotter.storage.delta_history import DeltaHistory, read_history

_LOG = "_delta_log/"
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True)
class KeptVersions:
    """Which files and label data of a feature set are needed, and which are not.

    labels: ids of the label data of the kept versions
    uncommitted: old files that belong to no version
    superseded: version → when the next version replaced it, and the old files that it was the last to have
    unknown: why this cannot be determined, so that nothing may be deleted; empty if it can
    """

    name: str
    labels: frozenset[str] = frozenset()
    uncommitted: tuple[StoredFile, ...] = ()
    superseded: Mapping[int, tuple[datetime, Sequence[StoredFile]]] = field(default_factory=dict)
    unknown: str = ""


def kept_versions(
    storage: Storage, name: str, files: Sequence[StoredFile], pinned: set[int], latest: datetime
) -> KeptVersions:
    """Determine which files of a feature set are needed.

    files: all complete ones in its folder, listed before this is called
    pinned: versions that records refer to
    latest: versions that were the newest at this moment or later are kept too, since they may be in use
    """
    inside = {file.path.removeprefix(f"{FOLDER}/{name}/"): file for file in files}
    commits = {int(match[1]): file for path, file in inside.items() if (match := _COMMIT.fullmatch(path))}
    old = {path: file for path, file in inside.items() if _is_data(path) and file.modified_at < latest}
    log = [path.removeprefix(_LOG) for path in inside if path.startswith(_LOG)]
    if not log:
        return KeptVersions(name, uncommitted=tuple(old.values()))
    try:
        history = read_history(storage, f"{FOLDER}/{name}", log)
        if elsewhere := [path for path in history.spans if path.startswith("/") or ":/" in path]:
            raise StorageError.because(f"a version names files by absolute paths, such as {elsewhere[0]}")
        newest = history.newest
        kept = {v for v in range(newest + 1) if v in pinned or _is_kept(v, commits, latest)} | {newest}
        labels, needed = _labels(history, kept), sorted(kept)
    except (ConfigError, StorageError) as error:
        return KeptVersions(name, unknown=f"{FOLDER}/{name} was left alone: {error}")
    uncommitted: list[StoredFile] = []
    superseded: dict[int, tuple[datetime, list[StoredFile]]] = {}
    unneeded = ((history.last_version(path), path) for path in old if not history.is_in(path, needed))
    for version, path in sorted(unneeded, key=lambda pair: (-1 if pair[0] is None else pair[0], pair[1])):
        if version is None:
            uncommitted.append(old[path])
        else:
            when = commits[version + 1].modified_at if version + 1 in commits else latest
            superseded.setdefault(version, (when, []))[1].append(old[path])
    return KeptVersions(name, labels, tuple(uncommitted), superseded)


def _labels(history: DeltaHistory, versions: set[int]) -> frozenset[str]:
    """Return the ids of the label data of versions. Raises ConfigError for a version whose log is missing."""
    for version in versions:
        if version > history.newest:
            raise ConfigError.because(f"there is no version {version}, which a run refers to")
        if version < history.oldest or version not in history.metadata:
            raise ConfigError.because(f"the log of version {version} is missing")
    lineages = (json.loads(history.metadata[version].get(LINEAGE, "{}")) for version in versions)
    return frozenset(
        labels
        for lineage in lineages
        for labels in (*(part.labels for part in parts_of(lineage)), lineage.get("labels"))
        if labels is not None
    )


def _is_kept(version: int, commits: Mapping[int, StoredFile], latest: datetime) -> bool:
    """Return whether a version was the newest at `latest` or later, as far as the listing shows."""
    if version >= max(commits, default=0):
        return True
    return version + 1 in commits and commits[version + 1].modified_at >= latest


def _is_data(path: str) -> bool:
    """Return whether a file is data, not one of the table's own files, which must not be deleted."""
    return path.endswith(".parquet") and not any(part.startswith("_") for part in path.split("/"))
