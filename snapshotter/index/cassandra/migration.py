"""Fills in what earlier releases did not write with each run."""

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


def fill(connection: CassandraSession, index_name: str | None = None) -> None:
    """Write the places in time and the declarations of runs that lack them, of one index or of all in the keyspace.

    It may be done again, and by several at once.
    """
    names = [row.index_name for row in connection.one(_INDEXES, {})] if index_name is None else [index_name]
    for name in names:
        timeline = RunTimeline(connection, name)
        there = {run_id for run_id, _ in timeline.page(None, None)}
        entries = PublishedEntries(connection, "run", name).entries()
        for entry in entries:  # the latest published first: of its declarations it is the last that published them
            if entry.id not in there:
                for statement in _missing(connection, name, entry):
                    connection.ask([statement])


def _missing(connection: CassandraSession, index_name: str, entry: PublishedEntry) -> Iterator[Statement]:
    read = RecordReader(connection.address.uri)
    header, rows = entry.header, []
    try:
        known = read.read(run_name(entry.id), RunHeader.from_json, entry.header)
        (texts,) = record_pieces.read_attempts(connection, [entry.attempt])
        services = [read.read(run_name(entry.id), ServiceSnapshot.from_json, text).service for text in texts]
        ids = tuple(declaration_id(service) for service in services)
        header = RunHeader(known.run, known.services, ids).text()
        last = {declaration_id(service): (position, service) for position, service in enumerate(services)}
        rows = [declaration_row(service, position) for position, service in last.values()]
    except UnreadableRecordError:  # its place in time is known all the same
        pass
    for row in (*rows, EntryRow(TIMES, "", time_id(entry.id, entry.published_at), header)):
        values = {"index_name": index_name, "published_at": entry.published_at, "attempt": entry.attempt}
        yield _INSERT, {**vars(row), **values}
