"""Adds the rows that earlier releases did not write with each run."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.errors import UnreadableRecordError
from snapshotter.index.cassandra import record_pieces
from snapshotter.index.cassandra.cluster_session import CassandraSession, Statement
from snapshotter.index.cassandra.published_entries import EntryRow, PublishedEntries, PublishedEntry
from snapshotter.index.cassandra.run_timeline import RUN_TIMES as TIMES
from snapshotter.index.cassandra.run_timeline import RunHeader, RunTimeline, declaration_id, declaration_row, time_id
from snapshotter.index.record_reader import RecordReader, run_name
from snapshotter.records import ServiceSnapshot

_INDEXES = "SELECT DISTINCT index_name FROM {keyspace}.published"
_INSERT = (
    "INSERT INTO {keyspace}.published (index_name, kind, subject, id, published_at, attempt, header)"
    " VALUES (:index_name, :kind, :subject, :id, :published_at, :attempt, :header) IF NOT EXISTS"
)


def add_missing_rows(session: CassandraSession, index_name: str | None = None) -> None:
    """Add the timeline rows and declarations of runs that lack them, of one index or of all in the keyspace.

    It is idempotent, and may run concurrently.
    """
    names = [row.index_name for row in session.execute(_INDEXES, {})] if index_name is None else [index_name]
    for name in names:
        timeline = RunTimeline(session, name)
        complete = {run_id for run_id, _ in timeline.page(None, None)}
        entries = PublishedEntries(session, "run", name).entries()
        for entry in entries:  # the latest published first, which determines when its declarations were last published
            if entry.id not in complete:
                for statement in _missing_rows(session, name, entry):
                    session.execute_all([statement])


def _missing_rows(session: CassandraSession, index_name: str, entry: PublishedEntry) -> Iterator[Statement]:
    reader = RecordReader(session.address.uri)
    header, rows = entry.header, []
    try:
        stored = reader.read(run_name(entry.id), RunHeader.from_json, entry.header)
        (texts,) = record_pieces.read_attempts(session, [entry.attempt])
        services = [reader.read(run_name(entry.id), ServiceSnapshot.from_json, text).service for text in texts]
        ids = tuple(declaration_id(service) for service in services)
        header = RunHeader(stored.run, stored.services, ids).text()
        last = {declaration_id(service): (position, service) for position, service in enumerate(services)}
        rows = [declaration_row(service, position) for position, service in last.values()]
    except UnreadableRecordError:  # its timeline row needs no record
        pass
    for row in (*rows, EntryRow(TIMES, "", time_id(entry.id, entry.published_at), header)):
        values = {"index_name": index_name, "published_at": entry.published_at, "attempt": entry.attempt}
        yield _INSERT, {**vars(row), **values}
