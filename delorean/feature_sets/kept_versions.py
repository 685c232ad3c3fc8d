"""Which files of a feature set, or of predictions, are needed by which versions, and which are not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime

from delorean.feature_sets.parts import parts_of
from delorean.feature_sets.table import LINEAGE
from schemas.errors import ConfigError, StorageError
from snapshotter.storage import Storage, StoredFile
from snapshotter.storage.delta_history import DeltaHistory, read_history

_LOG = "_delta_log/"
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True)
class KeptVersions:
    """Which files and label data of a table are needed, and which are not.

    path: of the table, relative to the storage's root
    labels: ids of the label data of the kept versions
    uncommitted: old files that belong to no version
    superseded: version → when the next version replaced it, and the old files that it was the last to have
    unknown: why this cannot be determined, so that nothing may be deleted; empty if it can
    """

    path: str
    labels: frozenset[str] = frozenset()
    uncommitted: tuple[StoredFile, ...] = ()
    superseded: Mapping[int, tuple[datetime, Sequence[StoredFile]]] = field(default_factory=dict)
    unknown: str = ""


def kept_versions(
    storage: Storage,
    path: str,
    files: Sequence[StoredFile],
    latest: datetime,
    pinned: Set[int],
    possible: Set[int],
) -> KeptVersions:
    """Determine which files of a table are needed.

    path: of the table, relative to the storage's root
    files: all complete ones in its folder, listed before this is called
    latest: versions that were the newest at this moment or later are kept too, since they may be in use
    pinned: versions that records refer to
    possible: versions that records may refer to, if the table has them
    """
    inside = {file.path.removeprefix(f"{path}/"): file for file in files}
    commits = {int(match[1]): file for name, file in inside.items() if (match := _COMMIT.fullmatch(name))}
    old = {name: file for name, file in inside.items() if _is_data(name) and file.modified_at < latest}
    log = [name.removeprefix(_LOG) for name in inside if name.startswith(_LOG)]
    if not log:
        return KeptVersions(path, uncommitted=tuple(old.values()))
    try:
        history = read_history(storage, path, log)
        if elsewhere := [name for name in history.spans if name.startswith("/") or ":/" in name]:
            raise StorageError.because(f"a version names files by absolute paths, such as {elsewhere[0]}")
        newest = history.newest
        kept = {v for v in range(newest + 1) if v in possible or _is_kept(v, commits, latest)} | pinned | {newest}
        labels, needed = _labels(history, kept), sorted(kept)
    except (ConfigError, StorageError) as error:
        return KeptVersions(path, unknown=f"{path} was left alone: {error}")
    uncommitted: list[StoredFile] = []
    superseded: dict[int, tuple[datetime, list[StoredFile]]] = {}
    unneeded = ((history.last_version(name), name) for name in old if not history.is_in(name, needed))
    for version, name in sorted(unneeded, key=lambda pair: (-1 if pair[0] is None else pair[0], pair[1])):
        if version is None:
            uncommitted.append(old[name])
        else:
            when = commits[version + 1].modified_at if version + 1 in commits else latest
            superseded.setdefault(version, (when, []))[1].append(old[name])
    return KeptVersions(path, labels, tuple(uncommitted), superseded)


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
