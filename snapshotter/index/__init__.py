"""The index: which context sets, snapshot runs and versions of global elements are published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Self

from schemas.errors import ConfigError, NotInIndexError
from schemas.services import Service
from snapshotter.records import END_OF_TIME, ContextSet, GlobalVersion, ServiceSnapshot, SnapshotRun

_SCHEMES = ("sqlite", "cassandra")


class SnapshotIndex(ABC):
    """What is published, and nothing else, can be seen. Every write is one conditional write.

    uri: where it is, for people to read: without credentials
    Drivers' errors come out as SnapshotIndexError. Instances may be shared between threads.
    """

    uri: str

    @abstractmethod
    def publish_run(self, run: SnapshotRun) -> bool:
        """Make a run visible, stamping `published_at`; False, changing nothing, if its run id is published already."""

    @abstractmethod
    def run(self, run_id: str) -> SnapshotRun:
        """Give a published run. Raises NotInIndexError."""

    @abstractmethod
    def runs(self, limit: int | None = None, before: datetime | None = None) -> Sequence[SnapshotRun]:
        """Give published runs, the latest published first. No more is read than is returned.

        limit: at most this many; before: only those published strictly before, so `before=page[-1].published_at` gives
            the next page
        """

    def runs_by_id(self, run_ids: Iterable[str]) -> Mapping[str, SnapshotRun]:
        """Give those of these runs that are published."""
        found = {}
        for run_id in set(run_ids):
            try:
                found[run_id] = self.run(run_id)
            except NotInIndexError:
                continue
        return found

    def elements(self) -> Sequence[Service]:
        """Give the distinct declarations of services that have a published snapshot, the latest published first."""
        found: dict[Service, None] = {}
        for run in iterate_runs(self):
            for snapshot in reversed(run.services):
                found.setdefault(snapshot.service)
        return list(found)

    @abstractmethod
    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Give a service's snapshots that captured anything in [earliest, latest], the latest published first."""

    def iterate_snapshots(self, service: str, earliest: datetime, latest: datetime) -> Iterator[ServiceSnapshot]:
        """Yield what `snapshots` gives, the greatest `captured_to` first (of equal ones the later published).

        They are read in pages as they are consumed: a caller that stops early does not read the rest.
        """
        found = self.snapshots(service, earliest, latest)
        yield from sorted(found, key=lambda snapshot: snapshot.captured_to or END_OF_TIME, reverse=True)

    @abstractmethod
    def last_snapshots(self, service: str, limit: int) -> Sequence[ServiceSnapshot]:
        """Give the snapshots of a service that captured last, at most so many, the last first.

        Of those that captured last at the same time the later published comes first. No more is read than it takes.
        """

    @abstractmethod
    def publish_context_set(self, context_set: ContextSet) -> bool:
        """Make the context set of a date visible; False, changing nothing, if that date has one already."""

    @abstractmethod
    def context_set(self, date: date) -> ContextSet:
        """Give the context set of a date. Raises NotInIndexError."""

    @abstractmethod
    def context_sets(self, latest: date, experiment: str | None = None) -> Sequence[ContextSet]:
        """Give context sets up to a date, newest first; only those an experiment chose from, if one is named."""

    @abstractmethod
    def publish_global(self, version: GlobalVersion) -> bool:
        """Make a version visible, stamping `published_at`; False if the element has that version id already."""

    @abstractmethod
    def global_versions(self, element: str, latest: datetime, limit: int | None = None) -> Sequence[GlobalVersion]:
        """Give an element's versions with valid_from up to a time, newest first (of equal ones the later published)."""

    def global_version(self, element: str, version_id: str) -> GlobalVersion | None:
        """Give one version of an element, None if it is not published."""
        versions = self.global_versions(element, END_OF_TIME)
        return next((version for version in versions if version.version_id == version_id), None)

    def global_version_at(self, element: str, moment: datetime) -> GlobalVersion | None:
        """Give the version valid at a moment: the greatest `valid_from` up to it, of equal ones the later published."""
        return next(iter(self.global_versions(element, moment, limit=1)), None)

    @abstractmethod
    def global_elements(self) -> Sequence[str]:
        """Name the global elements that have a version, sorted."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def iterate_runs(index: SnapshotIndex, page: int = 100) -> Iterator[SnapshotRun]:
    """Yield all published runs, the latest published first, read in pages."""
    before = None
    while runs := index.runs(page, before):
        yield from runs
        before = runs[-1].published_at


def open_index(uri: str) -> SnapshotIndex:
    """Open the index at a URI: `sqlite:///path/to/index.db` or `cassandra://host,host/keyspace?…`.

    Raises ConfigError for a URI that is wrong, SnapshotIndexError for an index that cannot be used.
    """
    if _scheme(uri) == "sqlite":
        from snapshotter.index.sqlite import SqliteIndex

        return SqliteIndex(uri)
    from snapshotter.index.cassandra import CassandraIndex

    return CassandraIndex(uri)


def init_index(uri: str, replication: Mapping[str, int] | None = None) -> bool:
    """Make what an index at a URI lacks, and tell whether it is new. It may be done again, and by several at once.

    replication: datacenter → copies, of a keyspace of Cassandra if it is made; the datacenter "" is all of them

    Raises as `open_index` does.
    """
    if _scheme(uri) == "sqlite":
        if replication is not None:
            raise ConfigError.because("SQLite keeps no copies", "leave --replication out")
        from snapshotter.index.sqlite import init_sqlite

        return init_sqlite(uri)
    from snapshotter.index.cassandra import init_cassandra

    return init_cassandra(uri, replication)


def _scheme(uri: str) -> str:
    scheme, colon, _ = uri.partition(":")  # what follows may be credentials that break a URI
    if not colon:
        raise ConfigError.because("the index's URI has no scheme", "write sqlite:///path/to/index.db, or project.index")
    if scheme not in _SCHEMES:
        raise ConfigError.unknown("index scheme", scheme, _SCHEMES)
    return scheme
