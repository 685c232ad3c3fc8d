"""The index of published context sets, snapshot runs and versions of global elements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import islice

from schemas.closeable import Closeable
from schemas.errors import ConfigError
from schemas.services import Service
from snapshotter.records import (
    ContextSet,
    GlobalVersion,
    PublishedName,
    RecordKind,
    ServiceSnapshot,
    SnapshotRun,
    UnreadableRecord,
    Withdrawal,
)

_SCHEMES = ("sqlite", "cassandra")


class SnapshotIndex(Closeable):
    """Only what is published is visible, and each publication is one conditional write.

    uri: for messages, without credentials

    Drivers' errors are raised as SnapshotIndexError. Instances may be shared between threads.

    A record that cannot be read hides no other: look-ups that return lists skip it and log it, see `unreadable`; a
    look-up whose result depends on it raises UnreadableRecordError, which says how to withdraw it.
    """

    uri: str

    @abstractmethod
    def publish_run(self, run: SnapshotRun) -> bool:
        """Make a run visible and set its `published_at`; False, changing nothing, if its id is published already.

        Raises WithdrawnError for the id of a withdrawn run, DataKeyError for a record that could not be read back.
        """

    @abstractmethod
    def run(self, run_id: str) -> SnapshotRun:
        """Return a published run. Raises NotInIndexError, WithdrawnError for one that was withdrawn."""

    @abstractmethod
    def runs(self, limit: int | None = None, before: datetime | None = None) -> Sequence[SnapshotRun]:
        """Return published runs, the latest published first. No more is read than is returned.

        limit: at most this many; before: only those published strictly before, so `before=page[-1].published_at`
            returns the next page
        """

    @abstractmethod
    def runs_by_id(self, run_ids: Iterable[str]) -> Mapping[str, SnapshotRun]:
        """Return those of these runs that are published."""

    @abstractmethod
    def run_ids(self) -> Sequence[str]:
        """Return the ids of all published runs, the latest published first. No record is read."""

    def elements(self) -> Sequence[Service]:
        """Return the distinct declarations of services with a published snapshot, the latest published first.

        They are stored in the index: no run is read.
        """
        declarations: dict[Service, None] = {}  # of an index of an earlier release, which does not store them
        for run in iterate_runs(self):
            for snapshot in reversed(run.services):
                declarations.setdefault(snapshot.service)
        return list(declarations)

    @abstractmethod
    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Return a service's snapshots that captured anything in [earliest, latest], the latest published first."""

    @abstractmethod
    def iterate_snapshots(self, service: str, earliest: datetime, latest: datetime) -> Iterator[ServiceSnapshot]:
        """Yield what `snapshots` returns, the greatest `captured_to` first (of several the later published).

        They are read in pages as they are consumed: a caller that stops early does not read the rest.
        """

    @abstractmethod
    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Return the snapshots of a service that captured last, at most so many, the last first.

        Of several with the same last capture the later published comes first. Only these are read.
        """

    @abstractmethod
    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Make a revision of a date's context set visible; False, changing nothing, if the date has that revision."""

    @abstractmethod
    def context_set(self, date: date, revision: int = 1) -> ContextSet:
        """Return a revision of the context set of a date, by default the first. Raises NotInIndexError."""

    @abstractmethod
    def context_sets_of(self, date: date) -> Sequence[ContextSet]:
        """Return all revisions of a date's context set in order; none if nothing was selected for the date."""

    @abstractmethod
    def iterate_context_sets(self, latest: date = date.max, experiment: str | None = None) -> Iterator[ContextSet]:
        """Yield context sets up to a date: the newest date first, of a date the last revision first.

        They are read in pages as they are consumed. experiment: only those with contexts that it selected
        """

    def context_sets(
        self, latest: date, experiment: str | None = None, limit: int | None = None
    ) -> Sequence[ContextSet]:
        """Return what `iterate_context_sets` yields, at most so many."""
        return list(islice(self.iterate_context_sets(latest, experiment), limit))

    @abstractmethod
    def context_set_names(self) -> Sequence[PublishedName]:
        """Return the names of all context sets, in the order of `iterate_context_sets`. No record is read."""

    def context_set_dates(self) -> Sequence[date]:
        """Return the dates that have a context set, newest first. No record is read."""
        return list(dict.fromkeys(name.day for name in self.context_set_names()))

    @abstractmethod
    def publish_global(self, version: GlobalVersion) -> bool:
        """Make a version visible and set its `published_at`; False if the element has that version id already.

        Raises what `publish_run` raises.
        """

    @abstractmethod
    def global_versions(
        self, element: str, latest: datetime, limit: int | None = None, *, skip_unreadable: bool = False
    ) -> Sequence[GlobalVersion]:
        """Return an element's versions with valid_from up to a time, newest first (of several the later published).

        limit: at most this many, and no more are read
        skip_unreadable: for lists: skip what cannot be read. Not for the version that is valid at a moment
        """

    @abstractmethod
    def global_version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Return one version of an element, None if it is not published."""

    def global_version_at(self, element: str, moment: datetime) -> GlobalVersion | None:
        """Return the version valid at a moment: the greatest `valid_from` up to it, of several the later published."""
        return next(iter(self.global_versions(element, moment, limit=1)), None)

    @abstractmethod
    def global_elements(self) -> Sequence[str]:
        """Return the names of the global elements that have a version, sorted."""

    def withdraw_run(self, run_id: str, reason: str, by: str) -> bool:
        """Withdraw a published run, see `withdraw`."""
        return self.withdraw(PublishedName(RecordKind.RUN, run_id), reason, by)

    def withdraw_global(self, element: str, version_id: str, reason: str, by: str) -> bool:
        """Withdraw a version of a global element, see `withdraw`."""
        return self.withdraw(PublishedName(RecordKind.GLOBAL_VERSION, version_id, element), reason, by)

    def withdraw_context_set(self, date: date, reason: str, by: str, revision: int | None = None) -> bool:
        """Withdraw the context set of a date, see `withdraw`; then contexts can be selected for the date again.

        revision: only this one; None: all, the last first
        """
        revisions = [name for name in self.context_set_names() if name.day == date] if revision is None else []
        names = revisions or [PublishedName.of_revision(date, revision or 1)]
        return True in [self.withdraw(name, reason, by) for name in names]

    @abstractmethod
    def withdraw(self, name: PublishedName, reason: str, by: str) -> bool:
        """Remove what is published under a name from all look-ups, whether or not its record can be read.

        The withdrawal is recorded, and the id of a run or a version is never reused. False if it was withdrawn before.
        Raises NotInIndexError for a name that was never published.
        """

    @abstractmethod
    def withdrawals(self) -> Sequence[Withdrawal]:
        """Return what was withdrawn, the latest withdrawn first."""

    @abstractmethod
    def unreadable(self) -> Sequence[UnreadableRecord]:
        """Return the records that look-ups of this instance have skipped because they cannot be read."""


def iterate_runs(index: SnapshotIndex, page: int = 100) -> Iterator[SnapshotRun]:
    """Yield all published runs, the latest published first, read in pages."""
    before = None
    while runs := index.runs(page, before):
        yield from runs
        before = runs[-1].published_at


def open_index(uri: str) -> SnapshotIndex:
    """Open the index at a URI: `sqlite:///path/to/index.db` or `cassandra://host,host/keyspace?…`.

    Raises ConfigError for an invalid URI, SnapshotIndexError for an index that cannot be used.
    """
    if _scheme(uri) == "sqlite":
        from snapshotter.index.sqlite import SqliteIndex

        return SqliteIndex(uri)
    from snapshotter.index.cassandra import CassandraIndex

    return CassandraIndex(uri)


def init_index(uri: str, replication: Mapping[str, int] | None = None) -> bool:
    """Create what an index at a URI lacks, and return whether it is new. It is idempotent, and may run concurrently.

    replication: datacenter → copies, for a keyspace of Cassandra if it is created; the datacenter "" stands for all

    Raises what `open_index` raises.
    """
    if _scheme(uri) == "sqlite":
        if replication is not None:
            raise ConfigError.because("SQLite keeps no copies", "leave --replication out")
        from snapshotter.index.sqlite import init_sqlite

        return init_sqlite(uri)
    from snapshotter.index.cassandra import init_cassandra

    return init_cassandra(uri, replication)


def _scheme(uri: str) -> str:
    scheme, colon, _ = uri.partition(":")  # the rest may contain credentials that make the URI invalid
    if not colon:
        raise ConfigError.because("the index's URI has no scheme", "write sqlite:///path/to/index.db, or project.index")
    if scheme not in _SCHEMES:
        raise ConfigError.unknown("index scheme", scheme, _SCHEMES)
    return scheme
