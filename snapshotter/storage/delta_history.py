"""Which versions of a Delta table have which files, from one pass over its log, however many versions there are."""

from __future__ import annotations

import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from schemas.errors import CorruptFileError, MissingFileError
from snapshotter.storage import Storage
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet|(\d{20})\.checkpoint\..*json")


@dataclass
class DeltaHistory:
    """The files of each version of a table.

    oldest, newest: the versions that the log still describes
    spans: file's path within the table → ranges of versions that have it, from the first up to but not with the last
    metadata: version → what its writer wrote about the commit
    """

    oldest: int
    newest: int
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    metadata: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def last_version(self, path: str) -> int | None:
        """Give the last version that has a file; None if no version does."""
        return max((end - 1 for _, end in self.spans.get(path, ())), default=None)

    def is_in(self, path: str, versions: Sequence[int]) -> bool:
        """Tell whether one of some versions, in rising order, has a file."""
        for start, end in self.spans.get(path, ()):
            at = bisect_left(versions, start)
            if at < len(versions) and versions[at] < end:
                return True
        return False


def read_history(storage: Storage, folder: str, log: Sequence[str]) -> DeltaHistory:
    """Read the history of a table: each commit once, and a checkpoint where older commits are gone.

    folder: of the table, relative to the storage's root
    log: the names of the files in its log, as listed; commits that follow them are read too

    Raises CorruptFileError for a log with gaps that no checkpoint bridges, or with a commit that cannot be read.
    """
    commits = {int(found[1]) for name in log if (found := _COMMIT.fullmatch(name))}
    checkpoints = {int(found[1] or found[2]) for name in log if (found := _CHECKPOINT.fullmatch(name))}
    uri = storage.uri_of(folder)
    newest = max(commits | checkpoints, default=-1)
    oldest = newest + 1
    while oldest - 1 in commits:
        oldest -= 1
    starts = sorted(version for version in checkpoints if oldest - 1 <= version <= newest)
    if newest < 0 or (oldest > 0 and not starts):
        raise CorruptFileError.because(
            f"the log of the Delta table at {uri} lacks commits before version {max(oldest, 0)}",
            "restore its folder _delta_log from a copy",
        )
    begun: dict[str, int] = {}
    if oldest > 0:
        oldest = starts[0]
        begun = dict.fromkeys(_paths(uri, oldest), oldest)
    history = DeltaHistory(oldest, newest)
    for version in itertools.count(oldest):
        if version <= newest and version not in commits:
            continue  # only its checkpoint is left
        actions = _actions(storage, f"{folder}/_delta_log/{version:020d}.json", optional=version > newest)
        if actions is None:
            break
        history.newest = max(newest, version)
        for action in actions:
            history.metadata[version] = history.metadata.get(version, {}) | action.get("commitInfo", {})
        if version > oldest or oldest == 0:
            _apply(history.spans, begun, actions, version)
    for path, first in begun.items():
        history.spans.setdefault(path, []).append((first, history.newest + 1))
    return history


def _apply(
    spans: dict[str, list[tuple[int, int]]], begun: dict[str, int], actions: Sequence[Mapping[str, Any]], version: int
) -> None:
    """Move on to the next version. A file that a commit both removes and adds is in both versions."""
    added = {unquote(action["add"]["path"]) for action in actions if "add" in action}
    removed = {unquote(action["remove"]["path"]) for action in actions if "remove" in action}
    for path in removed - added:
        if path in begun:
            spans.setdefault(path, []).append((begun.pop(path), version))
    for path in added:
        begun.setdefault(path, version)


def _actions(storage: Storage, path: str, *, optional: bool) -> list[dict[str, Any]] | None:
    """Read the actions of a commit; None for one that is optional and does not exist."""
    try:
        with storage.open_input(path) as file:
            return [json.loads(line) for line in file.read().splitlines() if line.strip()]
    except MissingFileError:
        if optional:
            return None
        raise
    except ValueError as error:
        raise CorruptFileError.because(
            f"'{path}' in {storage.uri} cannot be read: {error}", "restore it from a copy"
        ) from error


def _paths(uri: str, version: int) -> list[str]:
    return [file.path for file in DeltaVersion.of(delta_table(uri, version), uri).files]
