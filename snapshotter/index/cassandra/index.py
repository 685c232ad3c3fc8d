"""The index in Cassandra."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from schemas.errors import NotInIndexError
from snapshotter.index import SnapshotIndex
from snapshotter.index.cassandra import records, schema
from snapshotter.index.cassandra.address import read_address
from snapshotter.index.cassandra.connection import Connection
from snapshotter.index.cassandra.look_up import Snapshots
from snapshotter.index.cassandra.published import Entry, Published
from snapshotter.index.stored import read_record
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, SnapshotRun, from_micros, to_micros

_VERSIONS = (
    "SELECT version_id, attempt, record FROM {keyspace}.global_versions"
    " WHERE index_name = :index_name AND element = :element AND valid_from <= :latest"
)
_WRITE_VERSION = (
    "INSERT INTO {keyspace}.global_versions (index_name, element, valid_from, version_id, attempt, record)"
    " VALUES (:index_name, :element, :valid_from, :version_id, :attempt, :record)"
)


def init_cassandra(uri: str, replication: Mapping[str, int] | None = None) -> bool:
    """Make what is missing of the keyspace, the tables and the index at a URI; tell whether the index is new."""
    connection = Connection(read_address(uri))
    try:
        return schema.prepare(connection, replication)
    finally:
        connection.close()


class CassandraIndex(SnapshotIndex):
    """The index in a keyspace of Cassandra.

    uri: `cassandra://host,host/keyspace?…`, see `snapshotter.index.cassandra.address`; made by `init_cassandra`

    What is published is first written as an attempt of its own, which nobody sees, and then becomes visible by one
    conditional write that names the attempt.
    Raises SnapshotIndexError when the cluster cannot be reached, or the index is not there or of another version.
    """

    def __init__(self, uri: str) -> None:
        self._connection = Connection(read_address(uri))
        self.uri = self._connection.address.uri
        self._name = self._connection.address.index
        self._runs = Published(self._connection, "run")
        self._context_sets = Published(self._connection, "context set")
        self._versions = Published(self._connection, "version")
        self._snapshots = Snapshots(self._connection, self._runs)
        try:
            schema.check(self._connection)
        except BaseException:  # whatever it is, the connection must not stay open
            self.close()
            raise

    def publish_run(self, run: SnapshotRun) -> bool:
        """Write the run's services under a new attempt, and make it visible unless another one is."""
        if self._runs.entry(run.run_id):
            return False
        attempt = uuid.uuid4()
        writes = [
            statement
            for position, snapshot in enumerate(run.services)
            for statement in self._snapshots.writes(attempt, position, snapshot)
        ]
        header = _header(run)
        self._connection.ask(writes)
        return self._runs.publish(run.run_id, attempt, header)

    def run(self, run_id: str) -> SnapshotRun:
        """Give a published run."""
        entry = self._runs.entry(run_id)
        if entry is None:
            raise NotInIndexError.because(f"no run '{run_id}' is published in {self.uri}")
        return self._read_runs([entry])[0]

    def runs(self, limit: int | None = None, before: datetime | None = None) -> Sequence[SnapshotRun]:
        """Give published runs, the latest published first."""
        entries = self._runs.entries()
        if before is not None:
            entries = [entry for entry in entries if entry.published_at < to_micros(before)]
        return self._read_runs(entries[:limit])

    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Give a service's snapshots whose captures overlap [earliest, latest], the latest published first."""
        found = self._snapshots.within(service, to_micros(earliest), to_micros(latest))
        return [read_record(self.uri, ServiceSnapshot.from_json, text) for text in found]

    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Give the snapshots of a service that captured last, at most so many, the last first."""
        found = self._snapshots.last(service, limit)
        return [read_record(self.uri, ServiceSnapshot.from_json, text) for text in found]

    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Write the context set under a new attempt, and make it visible unless its date has one."""
        day = context_set.date.isoformat()
        if self._context_sets.entry(day):
            return False
        attempt = uuid.uuid4()
        self._connection.ask(list(records.writes(attempt, 0, json.dumps(context_set.to_json()))))
        return self._context_sets.publish(day, attempt, json.dumps(list(context_set.experiments)))

    def context_set(self, date: date) -> ContextSet:
        """Give the context set of a date."""
        entry = self._context_sets.entry(date.isoformat())
        if entry is None:
            raise NotInIndexError.because(
                f"no context set of {date} is published in {self.uri}", "select contexts first"
            )
        return self._read_context_sets([entry])[0]

    def context_sets(self, latest: date, experiment: str | None = None) -> Sequence[ContextSet]:
        """Give context sets up to a date, newest first; only those an experiment chose from, if one is named."""
        chosen = [
            entry
            for entry in sorted(self._context_sets.entries(), key=lambda entry: entry.id, reverse=True)
            if entry.id <= latest.isoformat() and (experiment is None or experiment in json.loads(entry.header))
        ]
        return self._read_context_sets(chosen)

    def publish_global(self, version: GlobalVersion) -> bool:
        """Write the version under a new attempt, and make it visible unless the element has one of its id."""
        element, valid_from = version.element.name, to_micros(version.valid_from)
        if self._versions.entry(version.version_id, element):
            return False
        attempt, text = uuid.uuid4(), json.dumps(version.to_json())
        row = {"index_name": self._name, "element": element, "valid_from": valid_from, "version_id": version.version_id}
        write = (_WRITE_VERSION, {**row, "attempt": attempt, "record": records.copy_of(text)})
        self._connection.ask([*records.writes(attempt, 0, text), write])
        return self._versions.publish(version.version_id, attempt, "", element)

    def global_versions(self, element: str, latest: datetime, limit: int | None = None) -> Sequence[GlobalVersion]:
        """Give an element's versions with valid_from up to a time, newest first (of equal ones the later published)."""
        values = {"index_name": self._name, "element": element, "latest": to_micros(latest)}
        rows = self._connection.one(_VERSIONS, values)
        published = {entry.attempt: from_micros(entry.published_at) for entry in self._versions.entries(element)}
        visible = [row for row in rows if row.attempt in published]
        texts = records.whole(self._connection, [(row.attempt, 0, row.record) for row in visible])
        found = [
            replace(read_record(self.uri, GlobalVersion.from_json, text), published_at=published[row.attempt])
            for row, text in zip(visible, texts, strict=True)
        ]
        return sorted(found, key=lambda version: (version.valid_from, version.published_at), reverse=True)[:limit]

    def global_elements(self) -> Sequence[str]:
        """Name the global elements that have a version, sorted."""
        return self._versions.subjects()

    def close(self) -> None:
        """Let go of the cluster."""
        self._connection.close()

    def _read_runs(self, entries: Sequence[Entry]) -> list[SnapshotRun]:
        headers = [read_record(self.uri, _read_header, entry.header) for entry in entries]
        attempts = [(entry.attempt, count) for entry, (_, count) in zip(entries, headers, strict=True)]
        texts = records.read_attempts(self._connection, attempts)
        return [
            replace(
                run,
                services=tuple(read_record(self.uri, ServiceSnapshot.from_json, text) for text in of_run),
                published_at=from_micros(entry.published_at),
            )
            for entry, (run, _), of_run in zip(entries, headers, texts, strict=True)
        ]

    def _read_context_sets(self, entries: Sequence[Entry]) -> list[ContextSet]:
        texts = records.read_attempts(self._connection, [(entry.attempt, 1) for entry in entries])
        return [read_record(self.uri, ContextSet.from_json, text) for (text,) in texts]


def _header(run: SnapshotRun) -> str:
    return json.dumps({"run": replace(run, services=()).to_json(), "services": len(run.services)})


def _read_header(fields: Mapping[str, Any]) -> tuple[SnapshotRun, int]:
    return SnapshotRun.from_json(fields["run"]), int(fields["services"])
