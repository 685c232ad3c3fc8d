"""What a Delta table's log says of its commits.

deltalake's own `history` gives nothing where the table's path has a # or ? in it, and of an older version the wrong
numbers; it also reads every commit to tell of one.
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

_AT_ONCE = 8


def commit_info(uri: str, version: int) -> dict[str, Any] | None:
    """Give what a commit says of itself, and its `version`; None where the log does not have it any more.

    uri: of a table that exists

    Raises CorruptFileError for a commit that cannot be read, and what opening the storage does.
    """
    return _read(_storage_of(uri), version)


def commits(uri: str, newest: int) -> Iterator[dict[str, Any]]:
    """Give what each commit says of itself, from a version back to the oldest that the log still has."""
    storage = _storage_of(uri)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for start in range(newest, -1, -_AT_ONCE):
            versions = range(start, max(-1, start - _AT_ONCE), -1)
            for info in threads.map(partial(_read, storage), versions):
                if info is None:
                    return
                yield info


def _storage_of(uri: str) -> Storage:
    return open_storage(uri if urlsplit(uri).scheme in ("file", "s3") else file_uri(Path(uri).absolute()))


def actions_of(storage: Storage, folder: str, version: int) -> list[dict[str, Any]] | None:
    """Read the actions of a commit; None where the log does not have it any more, or not yet.

    folder: of the table, relative to the storage's root; empty where the table is that

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
    found = [action["commitInfo"] for action in actions if "commitInfo" in action]
    return {**(found[0] if found else {}), "version": version}
