"""Which versions of a Delta table have which files, from one pass over its log."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from schemas.errors import CorruptFileError
from snapshotter.storage import Storage
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_log import actions_of
from snapshotter.storage.delta_version import DeltaVersion

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet|(\d{20})\.checkpoint\..*json")


@dataclass
class DeltaHistory:
    """The files of each version of a table.

    oldest, newest: the versions that the log still describes
    spans: file's path within the table → ranges of versions that have it: the first, and the first that does not
    metadata: version → its commit's metadata
    """

    oldest: int
    newest: int
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    metadata: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def last_version(self, path: str) -> int | None:
        """Return the last version that has a file; None if no version does."""
        return max((end - 1 for _, end in self.spans.get(path, ())), default=None)

    def is_in(self, path: str, versions: Sequence[int]) -> bool:
        """Whether any of these versions, in ascending order, has a file."""
        for start, end in self.spans.get(path, ()):
            at = bisect_left(versions, start)
            if at < len(versions) and versions[at] < end:
                return True
        return False


def read_history(storage: Storage, folder: str, log: Sequence[str]) -> DeltaHistory:
    """Read the history of a table: each commit once, and a checkpoint where older commits are missing.

    folder: of the table, relative to the storage's root
    log: the names of the files in its log, as listed; later commits are read too

    Raises CorruptFileError for a log with gaps that no checkpoint covers, or with a commit that cannot be read.
    """
    commits = {int(match[1]) for name in log if (match := _COMMIT.fullmatch(name))}
    checkpoints = {int(match[1] or match[2]) for name in log if (match := _CHECKPOINT.fullmatch(name))}
    uri, newest = storage.uri_of(folder), max(commits | checkpoints, default=-1)
    oldest, open_spans = _begin(uri, commits, checkpoints, newest)
    history = DeltaHistory(oldest, newest)
    for version in itertools.count(oldest):
        if version <= newest and version not in commits:
            continue  # only its checkpoint is left
        actions = actions_of(storage, folder, version)
        if actions is None and version > newest:
            break
        if actions is None:
            raise _gap(uri, version + 1)
        history.newest = max(newest, version)
        for action in actions:
            history.metadata[version] = history.metadata.get(version, {}) | action.get("commitInfo", {})
        if version > oldest or oldest == 0:
            _apply(history.spans, open_spans, actions, version)
    for path, first in open_spans.items():
        history.spans.setdefault(path, []).append((first, history.newest + 1))
    return history


def _begin(uri: str, commits: set[int], checkpoints: set[int], newest: int) -> tuple[int, dict[str, int]]:
    """Return the oldest version from which on the log is complete, and that version for each of its files."""
    oldest = newest + 1
    while oldest - 1 in commits:
        oldest -= 1
    if oldest == 0 and newest >= 0:
        return 0, {}
    starts = [version for version in checkpoints if oldest - 1 <= version]
    if not starts:
        raise _gap(uri, oldest)
    oldest = min(starts)
    return oldest, dict.fromkeys(_paths(uri, oldest), oldest)


def _apply(
    spans: dict[str, list[tuple[int, int]]],
    open_spans: dict[str, int],
    actions: Sequence[Mapping[str, Any]],
    version: int,
) -> None:
    """Apply a version's commit. A file that it both removes and adds is in the version before and in this one."""
    added = {unquote(action["add"]["path"]) for action in actions if "add" in action}
    removed = {unquote(action["remove"]["path"]) for action in actions if "remove" in action}
    for path in removed - added:
        if path in open_spans:
            spans.setdefault(path, []).append((open_spans.pop(path), version))
    for path in added:
        open_spans.setdefault(path, version)


def _gap(uri: str, version: int) -> CorruptFileError:
    return CorruptFileError.because(
        f"the log of the Delta table at {uri} lacks commits before version {max(version, 0)}",
        "restore its folder _delta_log from a copy",
    )


def _paths(uri: str, version: int) -> list[str]:
    return [file.path for file in DeltaVersion.of(delta_table(uri, version), uri).files]
