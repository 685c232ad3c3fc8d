"""The index in Cassandra."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial

from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.index.cassandra import record_pieces, schema
from snapshotter.index.cassandra.address import read_address
from snapshotter.index.cassandra.cluster_session import CassandraSession
from snapshotter.index.cassandra.published_entries import PublishedEntries, PublishedEntry
from snapshotter.index.cassandra.run_timeline import RunHeader, RunTimeline, rows_of_run
from snapshotter.index.cassandra.snapshots_by_time import SnapshotsByTime
from snapshotter.index.cassandra.versions_by_time import visible_versions, write_version
from snapshotter.index.cassandra.withdrawals import Withdrawals, withdrawal_of
from snapshotter.index.record_reader import (
    RecordReader,
    after_revisions,
    not_published,
    run_name,
    version_name,
    withdrawn,
)
from snapshotter.records import (
    END_OF_TIME,
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

_PAGE = 100
_BEGINNING = datetime.min.replace(tzinfo=UTC)


def init_cassandra(uri: str, replication: Mapping[str, int] | None = None) -> bool:
    """Create what is missing of the keyspace, the tables and the index at a URI; return whether the index is new."""
    with closing(CassandraSession(read_address(uri))) as session:
        return schema.prepare(session, replication)


class CassandraIndex(SnapshotIndex):
    """The index in a keyspace of Cassandra.

    uri: `cassandra://host,host/keyspace?…`, see `snapshotter.index.cassandra.address`; created by `init_cassandra`

    A publication is first written as an attempt, which is invisible, and becomes visible by one conditional write that
    names the attempt.

    Raises SnapshotIndexError if the cluster cannot be reached, or the index does not exist or has another version.
    """

    def __init__(self, uri: str) -> None:
        self._session = CassandraSession(read_address(uri))
        self.uri = self._session.address.uri
        self._records = RecordReader(self.uri)
        self._runs = PublishedEntries(self._session, "run")
        self._context_sets = PublishedEntries(self._session, "context set")
        self._versions = PublishedEntries(self._session, "version")
        self._snapshots = SnapshotsByTime(self._session, self._runs)
        self._timeline = RunTimeline(self._session)
        self._withdrawals = Withdrawals(self._session, self._timeline)
        try:
            schema.check(self._session)
        except BaseException:  # of any kind: the session must not stay open
            self.close()
            raise

    def publish_run(self, run: SnapshotRun) -> bool:
        """Write the run's services as a new attempt, and make it visible unless another run is."""
        name = run_name(run.run_id)
        if self._is_published(self._runs, name):
            return False
        attempt = uuid.uuid4()
        writes = [
            statement
            for position, snapshot in enumerate(run.services)
            for statement in self._snapshots.writes(attempt, position, snapshot)
        ]
        header = RunHeader.of(run).text()
        self._session.execute_all(writes)
        extra_rows = partial(rows_of_run, run.run_id, header, run.services)
        return self._runs.publish(run.run_id, attempt, header, "", extra_rows) or self._lost_race(self._runs, name)

    def run(self, run_id: str) -> SnapshotRun:
        """Return a published run."""
        name = run_name(run_id)
        entry = self._runs.entry(run_id)
        if entry is None:
            raise not_published(name, self.uri)
        self._refuse_withdrawn(entry)
        return self._read_runs([(run_id, entry)], skip=False)[0]

    def runs(self, limit: int | None = None, before: datetime | None = None) -> Sequence[SnapshotRun]:
        """Return published runs, the latest published first."""
        matches: list[SnapshotRun] = []
        moment = None if before is None else to_micros(before)
        while limit is None or len(matches) < limit:  # more than once where records were skipped
            page = self._timeline.page(moment, None if limit is None else limit - len(matches))
            if not page:
                break
            matches += self._read_runs(page, skip=True)
            moment = page[-1][1].published_at
        return matches

    def runs_by_id(self, run_ids: Iterable[str]) -> Mapping[str, SnapshotRun]:
        """Return those of these runs that are published."""
        entries = [(entry.id, entry) for entry in self._runs.among(run_ids).values()]
        return {run.run_id: run for run in self._read_runs(entries, skip=False)}

    def run_ids(self) -> Sequence[str]:
        """Return the ids of all published runs, the latest published first."""
        return [run_id for run_id, _ in self._timeline.page(None, None)]

    def elements(self) -> Sequence[Service]:
        """Return the distinct declarations of services with a published snapshot, the latest published first."""
        return self._timeline.services()

    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Return a service's snapshots whose captures overlap [earliest, latest], the latest published first."""
        matches = self._snapshots.within(service, to_micros(earliest), to_micros(latest))
        return [self._records.read(run_name(run_id), ServiceSnapshot.from_json, text) for run_id, text in matches]

    def iterate_snapshots(self, service: str, earliest: datetime, latest: datetime) -> Iterator[ServiceSnapshot]:
        """Yield what `snapshots` returns, the greatest `captured_to` first, in pages."""
        for run_id, text in self._snapshots.by_capture(service, to_micros(earliest), to_micros(latest)):
            yield self._records.read(run_name(run_id), ServiceSnapshot.from_json, text)

    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Return the snapshots of a service that captured last, at most so many, the last first."""
        matches: list[ServiceSnapshot] = []
        by_capture = self._snapshots.by_capture(service, to_micros(_BEGINNING), to_micros(END_OF_TIME))
        while len(matches) < limit and (one := next(by_capture, None)) is not None:
            with self._records.skipping(run_name(one[0])):
                matches.append(self._records.read(run_name(one[0]), ServiceSnapshot.from_json, one[1]))
        return matches

    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Write the context set as a new attempt, and make it visible unless its date has this revision."""
        name = PublishedName.of_revision(context_set.date, context_set.revision)
        if self._context_sets.entry(name.id):
            return False
        attempt = uuid.uuid4()
        self._session.execute_all(list(record_pieces.writes(attempt, 0, record_text(context_set))))
        return self._context_sets.publish(name.id, attempt, json.dumps(list(context_set.experiments)))

    def context_set(self, date: date, revision: int = 1) -> ContextSet:
        """Return a revision of the context set of a date."""
        name = PublishedName.of_revision(date, revision)
        entry = self._context_sets.entry(name.id)
        if entry is None:
            raise not_published(name, self.uri)
        return self._read_context_sets([entry], skip=False)[0]

    def context_sets_of(self, date: date) -> Sequence[ContextSet]:
        """Return all revisions of a date's context set in order."""
        entries = self._context_sets.between(date.isoformat(), after_revisions(date))
        return self._read_context_sets(entries, skip=False)

    def iterate_context_sets(self, latest: date = date.max, experiment: str | None = None) -> Iterator[ContextSet]:
        """Yield context sets up to a date, newest first, in pages that grow."""
        before, size = after_revisions(latest), 1
        while page := self._context_sets.before(before, size):
            chosen = [entry for entry in page if experiment is None or experiment in json.loads(entry.header)]
            yield from self._read_context_sets(chosen, skip=True)
            before, size = page[-1].id, min(2 * size, _PAGE)

    def context_set_names(self) -> Sequence[PublishedName]:
        """Return the names of all context sets, newest first."""
        return [_name_of(entry) for entry in reversed(self._context_sets.of_kind())]

    def publish_global(self, version: GlobalVersion) -> bool:
        """Write the version as a new attempt, and make it visible unless the element has one with its id."""
        element, text = version.element.name, record_text(version)
        name = version_name(element, version.version_id)
        if self._is_published(self._versions, name):
            return False
        attempt = uuid.uuid4()
        write = write_version(self._session, version, attempt, record_pieces.copy_of(text))
        self._session.execute_all([*record_pieces.writes(attempt, 0, text), write])
        published = self._versions.publish(version.version_id, attempt, "", element)
        return published or self._lost_race(self._versions, name)

    def global_versions(
        self, element: str, latest: datetime, limit: int | None = None, *, skip_unreadable: bool = False
    ) -> Sequence[GlobalVersion]:
        """Return an element's versions with valid_from up to a time, newest first (of several the later published)."""
        matches: list[GlobalVersion] = []
        rows = visible_versions(self._versions, element, to_micros(latest))
        while (limit is None or len(matches) < limit) and (one := next(rows, None)) is not None:
            with self._records.skipping(version_name(element, one[0].id), skip_unreadable):
                matches.append(self._read_version(*one))
        return matches

    def global_version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Return one version of an element, None if it is not published."""
        entry = self._versions.entry(version_id, element)
        if entry is None or entry.is_withdrawn:
            return None
        return self._read_version(entry, "".join(record_pieces.read_attempts(self._session, [entry.attempt])[0]))

    def global_elements(self) -> Sequence[str]:
        """Return the names of the global elements that have a version, sorted."""
        return self._versions.subjects()

    def withdraw(self, name: PublishedName, reason: str, by: str) -> bool:
        """Make an entry invisible by one conditional write."""
        published = {RecordKind.RUN: self._runs, RecordKind.CONTEXT_SET: self._context_sets}
        done = self._withdrawals.withdraw(published.get(name.kind, self._versions), name, reason, by)
        if done is None and not any(withdrawal.name == name for withdrawal in self.withdrawals()):
            raise not_published(name, self.uri)
        self._records.forget(name)
        return bool(done)

    def withdrawals(self) -> Sequence[Withdrawal]:
        """Return what was withdrawn, the latest withdrawn first."""
        return self._withdrawals.all()

    def unreadable(self) -> Sequence[UnreadableRecord]:
        """Return the records that look-ups of this instance have skipped."""
        return self._records.skipped

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._session.close()

    def _is_published(self, published: PublishedEntries, name: PublishedName) -> bool:
        entry = published.entry(name.id, name.element)
        if entry is not None:
            self._refuse_withdrawn(entry)
        return entry is not None

    def _lost_race(self, published: PublishedEntries, name: PublishedName) -> bool:
        self._is_published(published, name)  # raises if it was withdrawn
        return False

    def _refuse_withdrawn(self, entry: PublishedEntry) -> None:
        if entry.is_withdrawn:
            raise withdrawn(withdrawal_of(entry), self.uri)

    def _read_runs(self, entries: Sequence[tuple[str, PublishedEntry]], skip: bool) -> list[SnapshotRun]:
        matches = []
        texts = record_pieces.read_attempts(self._session, [entry.attempt for _, entry in entries])
        for (run_id, entry), of_run in zip(entries, texts, strict=True):
            name = run_name(run_id)
            with self._records.skipping(name, skip):
                header = self._records.read(name, RunHeader.from_json, entry.header)
                record_pieces.require_all(self._session, entry.attempt, of_run, header.services)
                services = [self._records.read(name, ServiceSnapshot.from_json, text) for text in of_run]
                published_at = from_micros(entry.published_at)
                matches.append(replace(header.run, services=tuple(services), published_at=published_at))
        return matches

    def _read_context_sets(self, entries: Sequence[PublishedEntry], skip: bool) -> list[ContextSet]:
        matches = []
        texts = record_pieces.read_attempts(self._session, [entry.attempt for entry in entries])
        for entry, of_set in zip(entries, texts, strict=True):
            with self._records.skipping(_name_of(entry), skip):
                record_pieces.require_all(self._session, entry.attempt, of_set, 1)
                matches.append(self._records.read(_name_of(entry), ContextSet.from_json, of_set[0]))
        return matches

    def _read_version(self, entry: PublishedEntry, text: str) -> GlobalVersion:
        version = self._records.read(version_name(entry.subject, entry.id), GlobalVersion.from_json, text)
        return replace(version, published_at=from_micros(entry.published_at))


def _name_of(context_set: PublishedEntry) -> PublishedName:
    return PublishedName(RecordKind.CONTEXT_SET, context_set.id)
