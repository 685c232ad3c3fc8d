"""The index: which context sets, snapshot runs and versions of global elements are published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import date, datetime
from typing import Self
from urllib.parse import urlsplit

from schemas.errors import ConfigError
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, SnapshotRun


class SnapshotIndex(ABC):
    """What is published, and nothing else, can be seen. Every write is one conditional write.

    Drivers' errors come out as SnapshotIndexError. Instances may be shared between threads.
    """

    @abstractmethod
    def publish_run(self, run: SnapshotRun) -> bool:
        """Make a run visible, stamping `published_at`; False, changing nothing, if its run id is published already."""

    @abstractmethod
    def run(self, run_id: str) -> SnapshotRun:
        """Give a published run. Raises NotInIndexError."""

    @abstractmethod
    def runs(self) -> Sequence[SnapshotRun]:
        """Give all published runs, the latest published first."""

    @abstractmethod
    def snapshots(self, service: str, earliest: datetime, latest: datetime) -> Sequence[ServiceSnapshot]:
        """Give a service's snapshots that captured anything in [earliest, latest], the latest published first."""

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
    def global_versions(self, element: str, latest: datetime) -> Sequence[GlobalVersion]:
        """Give an element's versions with valid_from up to a time, newest first (of equal ones the later published)."""

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


def open_index(uri: str) -> SnapshotIndex:
    """Open the index at a URI: `sqlite:///path/to/index.db`.

    Raises ConfigError for a scheme that no implementation has.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "sqlite":
        from snapshotter.index.sqlite import SqliteIndex

        return SqliteIndex(uri)
    raise ConfigError.unknown("index scheme", scheme, ["sqlite"])
