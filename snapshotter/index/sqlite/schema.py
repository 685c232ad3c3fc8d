"""The tables of the file, and the migration of files of earlier releases.

Records are JSON; the other columns are those that queries need. Each service of a run has its own row.

context_sets    `date` is the id in `PublishedName`: from the second revision of a date on with a number, which earlier
                releases do not expect: therefore the third version, which is otherwise like the second
declarations    the distinct declarations of services with a published snapshot, and when each was last published
withdrawals     what was withdrawn, with the contents of its rows
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress

from schemas.errors import SnapshotIndexError, UnreadableRecordError
from schemas.services import Service
from snapshotter.index.record_reader import RecordReader, run_name
from snapshotter.index.sqlite.database_file import IndexFile
from snapshotter.records import ServiceSnapshot

VERSION = 3
WITH_DECLARATIONS = 2  # the version that added declarations and withdrawals
_FIRST = """
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, published_at INTEGER NOT NULL UNIQUE, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    run_id TEXT NOT NULL REFERENCES runs, position INTEGER NOT NULL, service TEXT NOT NULL,
    captured_from INTEGER, captured_to INTEGER, published_at INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (run_id, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS context_sets (date TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS global_versions (
    element TEXT NOT NULL, version_id TEXT NOT NULL, valid_from INTEGER NOT NULL,
    published_at INTEGER NOT NULL UNIQUE, record TEXT NOT NULL, PRIMARY KEY (element, version_id)
) WITHOUT ROWID;
"""
_SECOND = """
DROP INDEX IF EXISTS snapshots_by_time;
CREATE INDEX IF NOT EXISTS snapshots_by_capture
    ON snapshots (service, captured_to, published_at, position, captured_from);
CREATE INDEX IF NOT EXISTS versions_by_validity ON global_versions (element, valid_from, published_at);
CREATE TABLE IF NOT EXISTS declarations (
    declaration TEXT PRIMARY KEY, published_at INTEGER NOT NULL, position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawals (
    kind TEXT NOT NULL, element TEXT NOT NULL, id TEXT NOT NULL, withdrawn_at INTEGER NOT NULL UNIQUE,
    published_at INTEGER, withdrawn_by TEXT NOT NULL, reason TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (kind, element, id, withdrawn_at)
) WITHOUT ROWID;
"""
_DECLARE = (
    "INSERT INTO declarations VALUES (?, ?, ?) ON CONFLICT (declaration) DO UPDATE"
    " SET published_at = excluded.published_at, position = excluded.position"
    " WHERE (excluded.published_at, excluded.position) > (declarations.published_at, declarations.position)"
)


# Strictly later than everything ever published, whatever the machine's clock does.
NEXT_MOMENT = """
SELECT max(?, 1 + coalesce((SELECT max(published_at) FROM runs), 0),
    1 + coalesce((SELECT max(published_at) FROM global_versions), 0),
    1 + coalesce((SELECT max(published_at) FROM withdrawals), 0),
    1 + coalesce((SELECT max(withdrawn_at) FROM withdrawals), 0))
"""


def set_up(file: IndexFile, records: RecordReader) -> int:
    """Migrate a file to this release's schema, if it may be written, and return its version.

    Raises SnapshotIndexError for a file of a later release.
    """
    if file.writable:
        file.set_up()
    has_tables = bool(file.query("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"))
    version = file.query("SELECT max(version) FROM schema_version")[0][0] if has_tables else None
    if file.writable and (version is None or version < VERSION):
        with file.transaction() as connection:
            version = _migrate(connection, records)
    if version is None or version > VERSION:
        raise SnapshotIndexError.because(
            f"{file.uri} has schema version {version}, expected {VERSION}", "use the release that wrote it"
        )
    return int(version)


def _migrate(connection: sqlite3.Connection, records: RecordReader) -> int:
    """Create what is missing, and return the file's new version."""
    for statement in _FIRST.split(";"):
        connection.execute(statement)
    (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    if version is None or version < VERSION:
        if version is None or version < WITH_DECLARATIONS:
            for statement in _SECOND.split(";"):
                connection.execute(statement)
            _declare_all(connection, records)
        connection.execute("DELETE FROM schema_version")
        connection.execute("INSERT INTO schema_version VALUES (?)", (VERSION,))
        return VERSION
    return int(version)


def declare(connection: sqlite3.Connection, service: Service, published_at: int, position: int) -> None:
    """Record that a snapshot of a service with this declaration is published."""
    connection.execute(_DECLARE, (declaration(service), published_at, position))


def declaration(service: Service) -> str:
    """Return a service's declaration as text, equal for equal declarations."""
    return json.dumps(service.to_json(), sort_keys=True)


def declare_again(connection: sqlite3.Connection, records: RecordReader, published_at: int) -> None:
    """Update the declarations last published by a run that was withdrawn: to the run before that published each."""
    rows = connection.execute("SELECT declaration FROM declarations WHERE published_at = ?", (published_at,)).fetchall()
    connection.execute("DELETE FROM declarations WHERE published_at = ?", (published_at,))
    for (text,) in rows:
        others = connection.execute(
            "SELECT run_id, published_at, position, record FROM snapshots WHERE service = ?"
            " ORDER BY published_at DESC, position DESC",
            (json.loads(text)["name"],),
        )
        latest = next((each for each in _declared(records, others) if declaration(each[0]) == text), None)
        if latest is not None:
            declare(connection, *latest)


def _declare_all(connection: sqlite3.Connection, records: RecordReader) -> None:
    rows = connection.execute("SELECT run_id, published_at, position, record FROM snapshots")
    for declared in _declared(records, rows):
        declare(connection, *declared)


def _declared(records: RecordReader, rows: Iterable[tuple[str, int, int, str]]) -> Iterator[tuple[Service, int, int]]:
    """Yield the service of each readable snapshot, when it was published, and its position in its run."""
    for run_id, published_at, position, record in rows:
        with suppress(UnreadableRecordError):
            snapshot = records.read(run_name(run_id), ServiceSnapshot.from_json, record)
            yield snapshot.service, published_at, position
