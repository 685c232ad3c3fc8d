"""The embedded index: one SQLite file, shared by any number of processes and threads of one machine."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from schemas.errors import NotInIndexError, SnapshotIndexError
from schemas.file_uri import path_of
from snapshotter.index import SnapshotIndex
from snapshotter.index.stored import read_record
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, SnapshotRun, from_micros, to_micros

_VERSION = 1
_BUSY_SECONDS = 30.0
# Records are JSON; columns beside them are what queries need. A run's services are rows of their own.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, published_at INTEGER NOT NULL UNIQUE, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
    run_id TEXT NOT NULL REFERENCES runs, position INTEGER NOT NULL, service TEXT NOT NULL,
    captured_from INTEGER, captured_to INTEGER, published_at INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (run_id, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS snapshots_by_time ON snapshots (service, captured_to, captured_from);
CREATE TABLE IF NOT EXISTS context_sets (date TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS global_versions (
    element TEXT NOT NULL, version_id TEXT NOT NULL, valid_from INTEGER NOT NULL,
    published_at INTEGER NOT NULL UNIQUE, record TEXT NOT NULL, PRIMARY KEY (element, version_id)
) WITHOUT ROWID;
"""
# Strictly later than all that is published, whatever the machine's clock does meanwhile.
_NEXT_MOMENT = """
SELECT max(?, 1 + coalesce((SELECT max(published_at) FROM runs), 0),
    1 + coalesce((SELECT max(published_at) FROM global_versions), 0))
"""


def init_sqlite(uri: str) -> bool:
    """Make the file that a URI names, if it is missing, and check it; tell whether it was."""
    new = not _path(uri).exists()
    SqliteIndex(uri).close()
    return new


class SqliteIndex(SnapshotIndex):
    """The index in one file.

    uri: `sqlite:///path/to/index.db`; the file is made if it is not there
    Raises SnapshotIndexError when the file is no index, or one of another version.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        path = _path(uri)
        self._lock = threading.RLock()  # one connection; its statements take turns
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translated():
                self._set_up()
        except SnapshotIndexError:
            self._connection.close()
            raise

    def publish_run(self, run: SnapshotRun) -> bool:
        """Insert the run unless its id is there, and with it, in one transaction, its services."""
        header = json.dumps(replace(run, services=()).to_json())
        with self._transaction() as connection:
            moment = self._next_moment()
            inserted = connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?) ON CONFLICT (run_id) DO NOTHING", (run.run_id, moment, header)
            )
            if inserted.rowcount == 0:
                return False
            connection.executemany(
                "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_snapshot_row(run.run_id, i, snapshot, moment) for i, snapshot in enumerate(run.services)],
            )
            return True

    def run(self, run_id: str) -> SnapshotRun:
        """Give a published run."""
        found = self._runs("WHERE run_id = ?", (run_id,))
        if not found:
            raise NotInIndexError.because(f"no run '{run_id}' is published in {self.uri}")
        return found[0]

    def runs(self, limit: int | None = None) -> Sequence[SnapshotRun]:
        """Give published runs, the latest published first: all, or at most so many."""
        return self._runs("ORDER BY published_at DESC LIMIT ?", (-1 if limit is None else limit,))

    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Give a service's snapshots whose captures overlap [earliest, latest], the latest published first."""
        rows = self._query(
            "SELECT record FROM snapshots WHERE service = ? AND captured_to >= ? AND captured_from <= ?"
            " ORDER BY published_at DESC, position DESC",
            (service, to_micros(earliest), to_micros(latest)),
        )
        return [read_record(self.uri, ServiceSnapshot.from_json, record) for (record,) in rows]

    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Give the snapshots of a service that captured last, at most so many, the last first."""
        rows = self._query(
            "SELECT record FROM snapshots WHERE service = ? AND captured_to IS NOT NULL"
            " ORDER BY captured_to DESC, published_at DESC, position DESC LIMIT ?",
            (service, limit),
        )
        return [read_record(self.uri, ServiceSnapshot.from_json, record) for (record,) in rows]

    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Insert the context set unless its date has one."""
        values = (context_set.date.isoformat(), json.dumps(context_set.to_json()))
        with self._transaction() as connection:
            inserted = connection.execute(
                "INSERT INTO context_sets VALUES (?, ?) ON CONFLICT (date) DO NOTHING", values
            )
            return inserted.rowcount == 1

    def context_set(self, date: date) -> ContextSet:
        """Give the context set of a date."""
        rows = self._query("SELECT record FROM context_sets WHERE date = ?", (date.isoformat(),))
        if not rows:
            raise NotInIndexError.because(
                f"no context set of {date} is published in {self.uri}", "select contexts first"
            )
        return read_record(self.uri, ContextSet.from_json, rows[0][0])

    def context_sets(self, latest: date, experiment: str | None = None) -> Sequence[ContextSet]:
        """Give context sets up to a date, newest first; only those an experiment chose from, if one is named."""
        rows = self._query(
            "SELECT record FROM context_sets WHERE date <= ? AND (? IS NULL OR EXISTS"
            " (SELECT 1 FROM json_each(record, '$.experiments') WHERE value = ?)) ORDER BY date DESC",
            (latest.isoformat(), experiment, experiment),
        )
        return [read_record(self.uri, ContextSet.from_json, record) for (record,) in rows]

    def publish_global(self, version: GlobalVersion) -> bool:
        """Insert the version unless the element has one of its id."""
        record = json.dumps(version.to_json())
        with self._transaction() as connection:
            inserted = connection.execute(
                "INSERT INTO global_versions VALUES (?, ?, ?, ?, ?) ON CONFLICT (element, version_id) DO NOTHING",
                (version.element.name, version.version_id, to_micros(version.valid_from), self._next_moment(), record),
            )
            return inserted.rowcount == 1

    def global_versions(self, element: str, latest: datetime) -> Sequence[GlobalVersion]:
        """Give an element's versions with valid_from up to a time, newest first (of equal ones the later published)."""
        rows = self._query(
            "SELECT record, published_at FROM global_versions WHERE element = ? AND valid_from <= ?"
            " ORDER BY valid_from DESC, published_at DESC",
            (element, to_micros(latest)),
        )
        return [
            replace(read_record(self.uri, GlobalVersion.from_json, record), published_at=from_micros(published))
            for record, published in rows
        ]

    def global_elements(self) -> Sequence[str]:
        """Name the global elements that have a version, sorted."""
        return [name for (name,) in self._query("SELECT DISTINCT element FROM global_versions ORDER BY element", ())]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _runs(self, where: str, values: Sequence[Any]) -> list[SnapshotRun]:
        rows = self._query(  # one statement, so that a run is never seen without its services
            f"SELECT run_id, r.published_at, r.record, s.record FROM (SELECT * FROM runs {where}) r"  # noqa: S608  # our text
            " LEFT JOIN snapshots s USING (run_id) ORDER BY r.published_at DESC, position",
            values,
        )
        found: dict[str, SnapshotRun] = {}
        services: dict[str, list[ServiceSnapshot]] = {}
        for run_id, published, record, snapshot in rows:
            if run_id not in found:
                run = read_record(self.uri, SnapshotRun.from_json, record)
                found[run_id] = replace(run, published_at=from_micros(published))
            if snapshot is not None:
                services.setdefault(run_id, []).append(read_record(self.uri, ServiceSnapshot.from_json, snapshot))
        return [replace(run, services=tuple(services.get(run_id, ()))) for run_id, run in found.items()]

    def _next_moment(self) -> int:
        (moment,) = self._connection.execute(_NEXT_MOMENT, (to_micros(datetime.now(UTC)),)).fetchone()
        return int(moment)

    def _query(self, text: str, values: Sequence[Any]) -> list[Any]:
        with self._lock, self._translated():
            return self._connection.execute(text, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write alone, durably, all or nothing."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:  # an interrupt or a full disk must not leave the transaction open
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _set_up(self) -> None:
        execute = self._connection.execute
        self._use_wal()
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        with self._transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_version SELECT ? WHERE NOT EXISTS (SELECT * FROM schema_version)", (_VERSION,)
            )
            (found,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
        if found != _VERSION:
            raise SnapshotIndexError.because(
                f"{self.uri} has schema version {found}, expected {_VERSION}",
                "use the release that wrote it, or migrate",
            )

    def _use_wal(self) -> None:
        """Switch to write-ahead logging. SQLite does not wait for other openers here, so we do."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SnapshotIndexError.because(f"index {self.uri}: {error}", _hint(error)) from error


def _hint(error: Exception) -> str | None:
    """Say what to do where SQLite does not: on a full disk it cannot even be read, and calls that an I/O error."""
    name = getattr(error, "sqlite_errorname", "")
    return "see whether its disk is full or broken" if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")) else None


def _snapshot_row(run_id: str, position: int, snapshot: ServiceSnapshot, published_at: int) -> tuple[Any, ...]:
    first, last = snapshot.captured_from, snapshot.captured_to
    return (
        run_id,
        position,
        snapshot.service.name,
        None if first is None else to_micros(first),
        None if last is None else to_micros(last),
        published_at,
        json.dumps(snapshot.to_json()),
    )


def _path(uri: str) -> Path:
    return path_of(uri, "sqlite")
