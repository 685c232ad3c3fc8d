"""Opens Delta tables and commits to them, without a JVM."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from schemas.errors import CorruptFileError, MissingFileError, StorageError
from schemas.redaction import without_password
from schemas.strict_json import json_text
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.delta_location import delta_location, require_reachable
from snapshotter.storage.delta_log import commit_info

USER_METADATA = "userMetadata"  # the key of commit metadata that Spark's DESCRIBE HISTORY shows


class ConcurrentCommitError(StorageError):
    """Another writer committed first; nothing was changed."""


_COLOURS = re.compile(r"\s*\x1b\[\d*m↳?")
_COMMIT_ID = "delorean.commit"
_ONCE = "delorean.run:"  # and an id: what Delta calls the application of a commit that is made once
_TRIES = 100
_FOREVER = "interval 36500 days"
_CONFIGURATION = {  # Spark's and deltalake's vacuums must not delete by age: only ours knows what is referred to
    "delta.logRetentionDuration": _FOREVER,
    "delta.deletedFileRetentionDuration": _FOREVER,
    "delta.checkpointInterval": "20",  # our commits have large metadata, which is read again by each opening
}


def delta_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a table; None: the newest.

    Raises MissingFileError if there is no Delta table or no such version, CorruptFileError for a log that cannot be
    read, and StorageError if S3 denies access.
    """
    plain, options = delta_location(uri)
    try:
        table = DeltaTable(plain, storage_options=options)
        newest = table.version()
        if version is not None and 0 <= version <= newest:  # beyond, deltalake searches for all in between
            table.load_as_version(version)
    except TableNotFoundError as error:
        raise MissingFileError.because(f"there is no Delta table at {uri}") from error
    except (DeltaError, OSError) as error:
        if "Invalid table location" in str(error):
            raise MissingFileError.because(f"there is no Delta table at {uri}") from error
        require_reachable(uri)
        raise CorruptFileError.because(
            f"the log of the Delta table at {uri} cannot be read: {one_line(error)}",
            "restore its folder _delta_log from a copy",
        ) from error
    if version is not None and not 0 <= version <= newest:
        problem = f"there is no version {version} of the Delta table at {uri}"
        raise MissingFileError.because(problem, f"the newest is {newest}")
    return table


def files_of(table: DeltaTable) -> list[str]:
    """Return the paths of a version's files as in its log, decoded once: relative to the table, or absolute."""
    root = table.table_uri.removeprefix("file://").rstrip("/") + "/"
    return [uri.removeprefix("file://").removeprefix(root) for uri in table.file_uris()]


def commit_files(
    storage: Storage,
    folder: str,
    schema: pa.Schema,
    files: Iterable[DataFile],
    metadata: Mapping[str, str],
    statistics: Mapping[str, Mapping[str, Any]] | None = None,
    once: str | None = None,
    append_to: int | None = None,
) -> int:
    """Commit files as the next version, replacing the previous contents, and return the version.

    folder: of the table, relative to the storage's root; the files are in it
    metadata: stored with the commit, see `USER_METADATA`
    statistics: file's path → minValues, maxValues and nullCount of columns
    once: an id; of commits with the same id only the first is made, and all return its version
    append_to: keep the contents of this version, which must be the newest

    Concurrent writers commit one after the other. Raises StorageError, with nothing changed, if the storage fails, or
    other writers were faster a hundred times; ConcurrentCommitError if `append_to` is not the newest version.
    """
    commit_id, uri = uuid.uuid4().hex, storage.uri_of(folder)
    actions = [_add(file, f"{folder}/", (statistics or {}).get(file.path, {})) for file in files]
    commit_metadata = {**metadata, _COMMIT_ID: commit_id}
    for _ in range(_TRIES):
        before = _newest(uri)
        if once is not None and (version := _committed_in(before, once)) is not None:
            return version
        if append_to is not None and _version(before) != append_to:
            raise ConcurrentCommitError.because(f"'{folder}' has version {_version(before)}, not {append_to}, by now")
        properties = _properties(commit_metadata, once, _version(before) + 1)
        mode: Literal["append", "overwrite"] = "overwrite" if append_to is None else "append"
        try:
            return _write_next(uri, before, folder, Schema.from_arrow(schema), actions, properties, mode)
        except (DeltaError, OSError) as error:
            after = _newest(uri)
            ours = _committed(uri, before, after, commit_id)
            if ours is not None:  # only the response was lost, or a step after the commit failed
                return ours
            if _version(after) == _version(before):
                raise StorageError.because(
                    f"'{folder}' could not be committed: {one_line(error)}", "check the storage, then run it again"
                ) from error
    raise StorageError.because(
        f"'{folder}' could not be committed: other writers were faster {_TRIES} times, and no file of it is visible",
        "run it again when fewer writers are active",
    )


def committed_once(uri: str, once: str) -> int | None:
    """Return the version that was committed with an id, see `commit_files`; None if none was."""
    return _committed_in(_newest(uri), once)


def one_line(error: Exception) -> str:
    """Return deltalake's message, a coloured tree of reasons that a trace may follow, as one line without passwords."""
    reasons = _COLOURS.sub(":", str(error).partition("\n   0: ")[0])
    return without_password(" ".join(reasons.split()))[:300]


def _properties(metadata: Mapping[str, str], once: str | None, version: int) -> CommitProperties:
    """Build a commit's properties. Without deltalake's own retries, it is made as this version or not at all."""
    transactions = None if once is None else [Transaction(_ONCE + once, version)]
    return CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0, app_transactions=transactions)


def _committed_in(table: DeltaTable | None, once: str) -> int | None:
    return None if table is None else table.transaction_version(_ONCE + once)


def _write_next(
    uri: str,
    before: DeltaTable | None,
    name: str,
    schema: Schema,
    actions: list[AddAction],
    properties: CommitProperties,
    mode: Literal["append", "overwrite"],
) -> int:
    if before is None:
        plain, options = delta_location(uri)
        create_table_with_add_actions(
            plain,
            schema,
            actions,
            mode="error",
            name=name,
            storage_options=options,
            configuration=_CONFIGURATION,
            commit_properties=properties,
        )
        return 0
    version = before.version() + 1
    before.create_write_transaction([*actions], mode, schema, commit_properties=properties)
    return int(version)


def _newest(uri: str) -> DeltaTable | None:
    try:
        return delta_table(uri)
    except MissingFileError:
        return None


def _version(table: DeltaTable | None) -> int:
    return -1 if table is None else int(table.version())


def _committed(uri: str, before: DeltaTable | None, after: DeltaTable | None, commit_id: str) -> int | None:
    """Return which of the versions committed meanwhile is ours, if any."""
    newer = _version(after) - _version(before)
    if after is None or not newer:
        return None
    newest = _version(after)
    infos = (commit_info(uri, version) for version in range(newest, newest - newer, -1))
    return next((info["version"] for info in infos if info and info.get(_COMMIT_ID) == commit_id), None)


def _add(file: DataFile, prefix: str, statistics: Mapping[str, Any]) -> AddAction:
    now = int(datetime.now(UTC).timestamp() * 1000)
    text = json_text({"numRecords": file.rows, **statistics})
    return AddAction(file.path.removeprefix(prefix), file.bytes, {}, now, True, text)
