"""Commits in a Delta table's log.

deltalake's own `history` is empty if the table's path has a # or ? in it, has wrong numbers for an older version, and
reads every commit to return one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import CorruptFileError, MissingFileError
from schemas.file_uri import file_uri
from snapshotter.storage import Storage, open_storage

_CONCURRENT_READS = 8


def commit_info(uri: str, version: int) -> dict[str, Any] | None:
    """Return a commit's own metadata, and its `version`; None if the log does not have it any more.

    uri: of a table that exists

    Raises CorruptFileError for a commit that cannot be read, and what opening the storage raises.
    """
    return _read(_storage_of(uri), version)


def commits(uri: str, newest: int) -> Iterator[dict[str, Any]]:
    """Yield the metadata of each commit, from a version back to the oldest that the log still has."""
    storage = _storage_of(uri)
    with ThreadPoolExecutor(_CONCURRENT_READS) as threads:
        for start in range(newest, -1, -_CONCURRENT_READS):
            versions = range(start, max(-1, start - _CONCURRENT_READS), -1)
            for info in threads.map(partial(_read, storage), versions):
                if info is None:
                    return
                yield info


def _storage_of(uri: str) -> Storage:
    return open_storage(uri if urlsplit(uri).scheme in ("file", "s3") else file_uri(Path(uri).absolute()))


def actions_of(storage: Storage, folder: str, version: int) -> list[dict[str, Any]] | None:
    """Read the actions of a commit; None if the log does not have it any more, or not yet.

    folder: of the table, relative to the storage's root; empty if the table is the root

    Raises CorruptFileError for a commit that cannot be read.
    """
    path = f"{folder}/_delta_log/{version:020}.json".removeprefix("/")
    try:
        with storage.open_input(path) as file:
            lines = file.read().splitlines()
    except MissingFileError:
        return None
    try:
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError) as error:
        raise CorruptFileError.because(
            f"commit {version} of the Delta table at {storage.uri_of(folder) if folder else storage.uri} cannot be "
            f"read: {error}",
            "restore its folder _delta_log from a copy",
        ) from error


def _read(storage: Storage, version: int) -> dict[str, Any] | None:
    actions = actions_of(storage, "", version)
    if actions is None:
        return None
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    return {**(infos[0] if infos else {}), "version": version}
