"""The index in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from schemas.file_uri import path_of
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.index.record_reader import (
    RecordReader,
    after_revisions,
    not_published,
    run_name,
    version_name,
    withdrawn,
)
from snapshotter.index.sqlite.database_file import IndexFile
from snapshotter.index.sqlite.runs import read_runs, runs_query
from snapshotter.index.sqlite.schema import NEXT_MOMENT, WITH_DECLARATIONS, declare, set_up
from snapshotter.index.sqlite.snapshots import FIRST_BY_CAPTURE, NEXT_BY_CAPTURE, OVERLAPPING, snapshot_row
from snapshotter.index.sqlite.withdrawals import refuse_withdrawn, withdraw, withdrawals
from snapshotter.records import (
    ContextSet,
    GlobalVersion,
    PublishedName,
    RecordKind,
    ServiceSnapshot,
    SnapshotRun,
    UnreadableRecord,
    Withdrawal,
    from_micros,
    record_text,
    to_micros,
)

_NEVER = 2**63 - 1
_IDS_PER_QUERY = 500
_FIRST_PAGE, _LARGEST_PAGE = 8, 128
_VERSIONS = "SELECT version_id, record, valid_from, published_at FROM global_versions WHERE element = ?"
_NEWEST_VERSIONS = " AND (valid_from, published_at) < (?, ?) ORDER BY valid_from DESC, published_at DESC LIMIT ?"


def init_sqlite(uri: str) -> bool:
    """Create the file of a URI if it is missing, check it, and return whether it was missing."""
    new = not path_of(uri, "sqlite").exists()
    SqliteIndex(uri).close()
    return new


class SqliteIndex(SnapshotIndex):
    """The index in one file.

    uri: `sqlite:///path/to/index.db`; a missing file is created

    If this process may not write the file, it can still read it, and each write raises an error that says so.

    Raises SnapshotIndexError if the file is not an index, or has another version.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._records = RecordReader(uri)
        self._file = IndexFile(uri)
        try:
            self._version = set_up(self._file, self._records)
        except BaseException:  # of any kind: the file must not stay open
            self._file.close()
            raise

    def publish_run(self, run: SnapshotRun) -> bool:
        """Insert the run and its services in one transaction, unless its id is published."""
        header = record_text(replace(run, services=()))
        texts = [record_text(snapshot) for snapshot in run.services]
        with self._file.transaction() as connection:
            refuse_withdrawn(connection, run_name(run.run_id), self.uri)
            moment = self._next_moment(connection)
            inserted = connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?) ON CONFLICT (run_id) DO NOTHING", (run.run_id, moment, header)
            )
            if inserted.rowcount == 0:
                return False
            for position, (snapshot, text) in enumerate(zip(run.services, texts, strict=True)):
                row = snapshot_row(run.run_id, position, snapshot, moment, text)
                connection.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                declare(connection, snapshot.service, moment, position)
            return True

    def run(self, run_id: str) -> SnapshotRun:
        """Return a published run."""
        matches = self.runs_by_id([run_id])
        if not matches:
            self._refuse_withdrawn(run_name(run_id))
            raise not_published(run_name(run_id), self.uri)
        return matches[run_id]

    def runs(self, limit: int | None = None, before: datetime | None = None) -> Sequence[SnapshotRun]:
        """Return published runs, the latest published first."""
        matches: list[SnapshotRun] = []
        moment, left = _NEVER if before is None else to_micros(before), limit
        while left is None or left > 0:  # more than once where records were skipped
            query = runs_query("published_at < ? ORDER BY published_at DESC LIMIT ?")
            rows = self._query(query, (moment, -1 if left is None else left))
            if not rows:
                break
            matches += read_runs(self._records, rows, skip=True)
            moment, left = rows[-1][1], 0 if limit is None else limit - len(matches)
        return matches

    def runs_by_id(self, run_ids: Iterable[str]) -> Mapping[str, SnapshotRun]:
        """Return those of these runs that are published."""
        distinct = sorted(set(run_ids))
        matches: dict[str, SnapshotRun] = {}
        for start in range(0, len(distinct), _IDS_PER_QUERY):
            ids = distinct[start : start + _IDS_PER_QUERY]
            rows = self._query(runs_query(f"run_id IN ({', '.join('?' * len(ids))})"), ids)
            matches |= {run.run_id: run for run in read_runs(self._records, rows, skip=False)}
        return matches

    def run_ids(self) -> Sequence[str]:
        """Return the ids of all published runs, the latest published first."""
        return [run_id for (run_id,) in self._query("SELECT run_id FROM runs ORDER BY published_at DESC")]

    def elements(self) -> Sequence[Service]:
        """Return the distinct declarations of services with a published snapshot, the latest published first."""
        if self._version < WITH_DECLARATIONS:
            return super().elements()
        rows = self._query("SELECT declaration FROM declarations ORDER BY published_at DESC, position DESC")
        return [Service.from_json(json.loads(text)) for (text,) in rows]

    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Return a service's snapshots whose captures overlap [earliest, latest], the latest published first."""
        values = (service, to_micros(earliest), to_micros(latest))
        rows = self._query(OVERLAPPING, values)
        return [self._snapshot(row) for row in rows]

    def iterate_snapshots(self, service: str, earliest: datetime, latest: datetime) -> Iterator[ServiceSnapshot]:
        """Yield what `snapshots` returns, the greatest `captured_to` first, in pages that grow."""
        values = (service, to_micros(earliest), to_micros(latest))
        rows = self._query(FIRST_BY_CAPTURE, (*values, size := _FIRST_PAGE))
        while rows:
            yield from (self._snapshot(row) for row in rows)
            last, size = rows[-1][2:], min(2 * size, _LARGEST_PAGE)
            rows = self._query(NEXT_BY_CAPTURE, (*values, *last, size))

    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Return the snapshots of a service that captured last, at most so many, the last first."""
        matches: list[ServiceSnapshot] = []
        after: tuple[int, ...] = (_NEVER, 0, 0)
        values = (service, -_NEVER, _NEVER)
        while len(matches) < limit:
            rows = self._query(NEXT_BY_CAPTURE, (*values, *after, limit - len(matches)))
            if not rows:
                break
            for row in rows:
                with self._records.skipping(run_name(row[0])):
                    matches.append(self._snapshot(row))
            after = rows[-1][2:]
        return matches

    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Insert the context set unless its date has this revision."""
        name = PublishedName.of_revision(context_set.date, context_set.revision)
        values = (name.id, record_text(context_set))
        with self._file.transaction() as connection:
            inserted = connection.execute(
                "INSERT INTO context_sets VALUES (?, ?) ON CONFLICT (date) DO NOTHING", values
            )
            return inserted.rowcount == 1

    def context_set(self, date: date, revision: int = 1) -> ContextSet:
        """Return a revision of the context set of a date."""
        name = PublishedName.of_revision(date, revision)
        rows = self._query("SELECT date, record FROM context_sets WHERE date = ?", (name.id,))
        if not rows:
            raise not_published(name, self.uri)
        return self._context_set(rows[0])

    def context_sets_of(self, date: date) -> Sequence[ContextSet]:
        """Return all revisions of a date's context set in order."""
        text = "SELECT date, record FROM context_sets WHERE date >= ? AND date < ? ORDER BY date"
        return [self._context_set(row) for row in self._query(text, (date.isoformat(), after_revisions(date)))]

    def iterate_context_sets(self, latest: date = date.max, experiment: str | None = None) -> Iterator[ContextSet]:
        """Yield context sets up to a date, newest first, in pages that grow."""
        before, size = after_revisions(latest), 1
        text = "SELECT date, record FROM context_sets WHERE date < ? ORDER BY date DESC LIMIT ?"
        while rows := self._query(text, (before, size)):
            readable: list[ContextSet] = []
            for row in rows:
                with self._records.skipping(_name_of(row)):
                    readable.append(self._context_set(row))
            yield from (each for each in readable if experiment is None or experiment in each.experiments)
            before, size = rows[-1][0], min(2 * size, _LARGEST_PAGE)

    def context_set_names(self) -> Sequence[PublishedName]:
        """Return the names of all context sets, newest first."""
        return [_name_of(row) for row in self._query("SELECT date FROM context_sets ORDER BY date DESC")]

    def publish_global(self, version: GlobalVersion) -> bool:
        """Insert the version unless the element has one with its id."""
        record, element = record_text(version), version.element.name
        with self._file.transaction() as connection:
            refuse_withdrawn(connection, version_name(element, version.version_id), self.uri)
            moment = self._next_moment(connection)
            inserted = connection.execute(
                "INSERT INTO global_versions VALUES (?, ?, ?, ?, ?) ON CONFLICT (element, version_id) DO NOTHING",
                (element, version.version_id, to_micros(version.valid_from), moment, record),
            )
            return inserted.rowcount == 1

    def global_versions(
        self, element: str, latest: datetime, limit: int | None = None, *, skip_unreadable: bool = False
    ) -> Sequence[GlobalVersion]:
        """Return an element's versions with valid_from up to a time, newest first (of several the later published)."""
        matches: list[GlobalVersion] = []
        after = (to_micros(latest), _NEVER)
        while limit is None or len(matches) < limit:  # more than once where records were skipped
            left = -1 if limit is None else limit - len(matches)
            rows = self._query(f"{_VERSIONS}{_NEWEST_VERSIONS}", (element, *after, left))
            if not rows:
                break
            matches += self._versions(element, rows, skip_unreadable)
            after = rows[-1][2:]
        return matches

    def global_version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Return one version of an element, None if it is not published."""
        rows = self._query(f"{_VERSIONS} AND version_id = ?", (element, version_id))
        return next(iter(self._versions(element, rows, skip=False)), None)

    def global_elements(self) -> Sequence[str]:
        """Return the names of the global elements that have a version, sorted."""
        return [name for (name,) in self._query("SELECT DISTINCT element FROM global_versions ORDER BY element")]

    def withdraw(self, name: PublishedName, reason: str, by: str) -> bool:
        """Remove what is published under a name from all look-ups."""
        with self._file.transaction() as connection:
            done = withdraw(connection, self._records, name, reason, by, self._next_moment(connection))
        self._records.forget(name)
        return done

    def withdrawals(self) -> Sequence[Withdrawal]:
        """Return what was withdrawn, the latest withdrawn first."""
        return withdrawals(self._query) if self._version >= WITH_DECLARATIONS else []

    def unreadable(self) -> Sequence[UnreadableRecord]:
        """Return the records that look-ups of this instance have skipped."""
        return self._records.skipped

    def close(self) -> None:
        """Close the connection."""
        self._file.close()

    def _versions(self, element: str, rows: Iterable[Sequence[Any]], skip: bool) -> list[GlobalVersion]:
        matches = []
        for version_id, record, _, published in rows:
            name = version_name(element, version_id)
            with self._records.skipping(name, skip):
                version = self._records.read(name, GlobalVersion.from_json, record)
                matches.append(replace(version, published_at=from_micros(published)))
        return matches

    def _context_set(self, row: Sequence[Any]) -> ContextSet:
        return self._records.read(_name_of(row), ContextSet.from_json, row[1])

    def _snapshot(self, row: Sequence[Any]) -> ServiceSnapshot:
        return self._records.read(run_name(row[0]), ServiceSnapshot.from_json, row[1])

    def _refuse_withdrawn(self, name: PublishedName) -> None:
        for withdrawal in self.withdrawals():
            if withdrawal.name == name:
                raise withdrawn(withdrawal, self.uri)

    def _next_moment(self, connection: sqlite3.Connection) -> int:
        (moment,) = connection.execute(NEXT_MOMENT, (to_micros(datetime.now(UTC)),)).fetchone()
        return int(moment)

    def _query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._file.query(text, values)


def _name_of(row: Sequence[Any]) -> PublishedName:
    return PublishedName(RecordKind.CONTEXT_SET, row[0])
