"""Global elements for serving: the version that the model's as-of rule selects; those in use are kept in memory.

The rule and the look-up are those of generation. A valid version whose type cannot be read as the model's is never
read: its element is absent, like a service's whose answer does not fit, and `problem` reports it. If a version cannot
be read, or the index cannot be reached, the version served last stays in use, within max_age.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from delorean.state.rules import AsOf
from delorean.state.version_timeline import VersionTimeline
from delorean.state.version_values import version_rows
from delorean.state.versions import published_version_at, version_at, versions_in_view
from prana_proxy.supervised import SupervisedThread
from schemas.closeable import Closeable
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DeloreanError, StorageError
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, from_micros
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)
_KEPT = 3  # versions in memory per element; the least recently used are dropped first
_STUCK_SECONDS = 60.0  # a refresh may take at least this long before it counts as stuck
_CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class LoadedVersion:
    """A version and its whole table, as one value: a list of rows."""

    version: GlobalVersion
    values: pa.Array


class GlobalVersions(Closeable):
    """The versions of some global elements. Use it as a context manager; it is thread-safe.

    rules: element's name → as-of rule that the model was trained with; by default `AsOf()`
    refresh: the interval of looking for published versions, and so the delay before live requests use a new one
    refreshes: number of successful refreshes in the background

    Raises ConfigError where the version that is valid now cannot be read as the model's type.
    """

    def __init__(
        self,
        elements: Sequence[DataKey],
        index: SnapshotIndex,
        storage: Storage,
        clock: Callable[[], int],
        refresh: timedelta = timedelta(seconds=30),
        rules: Mapping[str, AsOf] | None = None,
    ) -> None:
        self._index, self._clock, self._refresh = index, clock, refresh
        self._elements = {e.name: _Element(e, (rules or {}).get(e.name, AsOf()), storage) for e in elements}
        self.refresh()
        for element in self._elements.values():
            element.refuse_other_type()
        self.refreshes = 0
        self._refresh_began: float | None = None  # by the monotonic clock, while one is in progress
        self._background = SupervisedThread.every(
            refresh.total_seconds(), "looking for new versions of global elements", self._refresh_in_background
        ).start()

    @property
    def problem(self) -> str | None:
        """What is wrong with the versions in use, for people; None if nothing is.

        Failed refreshes are among the problems of the process's background work, see `prana_proxy.supervised`.
        """
        problems = [self._stuck_refresh(), *(element.problem for element in self._elements.values())]
        return "; ".join(problem for problem in problems if problem) or None

    @property
    def failures(self) -> int:
        """The number of failed refreshes in the background."""
        return self._background.failures

    @property
    def _published(self) -> dict[str, list[GlobalVersion]]:
        """The versions that were valid at the last refresh or will be later, the newest first."""
        return {name: element.published[::-1] for name, element in self._elements.items()}

    @property
    def unusable(self) -> int:
        """The number of look-ups whose valid version cannot be read, or not as the element's type."""
        return sum(element.unusable for element in self._elements.values())

    def newest(self, now: datetime) -> dict[str, LoadedVersion | None]:
        """Return each element's version that is valid now, among those of the last refresh."""
        return {name: element.newest(now, self._index) for name, element in self._elements.items()}

    def at(self, moment: datetime) -> dict[str, LoadedVersion | None]:
        """Return each element's version that was valid at a moment, according to the index now."""
        return {name: element.at(moment, self._index) for name, element in self._elements.items()}

    def refresh(self) -> None:
        """Look for published versions, and load those that are valid now or before the refresh after the next."""
        now = from_micros(self._clock())
        errors = []
        for element in self._elements.values():
            try:
                element.refresh(now, self._index, 2 * self._refresh)
            except DeloreanError as error:  # do not skip the other elements
                errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the background thread; do not wait for a refresh that is stuck."""
        self._background.close(_CLOSING_SECONDS)

    def _refresh_in_background(self) -> None:
        self._refresh_began = time.monotonic()
        try:
            self.refresh()
            self.refreshes += 1
        finally:
            self._refresh_began = None

    def _stuck_refresh(self) -> str | None:
        began = self._refresh_began
        running = 0.0 if began is None else time.monotonic() - began
        if running <= max(_STUCK_SECONDS, 3 * self._refresh.total_seconds()):
            return None
        return f"{self._background.name} has not ended for {running:,.0f} s"


class _Element:
    """The versions of one element."""

    def __init__(self, element: DataKey, rule: AsOf, storage: Storage) -> None:
        self._element, self._rule, self._storage = element, rule, storage
        self.loaded: OrderedDict[str, LoadedVersion] = OrderedDict()
        self.published: list[GlobalVersion] = []
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._timeline: VersionTimeline | None = None
        self._last: LoadedVersion | None = None  # that live requests were served with
        self._unreadable: dict[str, DeloreanError] = {}  # version → error, until the next refresh
        self.problem: str | None = None
        self.unusable = 0

    def refresh(self, now: datetime, index: SnapshotIndex, ahead: timedelta) -> None:
        """Look for versions, and load those that are valid now or within some time ahead."""
        versions = versions_in_view(index, self._element.name, self._rule, now, END_OF_TIME)
        timeline = VersionTimeline(versions, self._rule, now)
        self._unreadable = {}
        soon = now + ahead if END_OF_TIME - now > ahead else END_OF_TIME
        valid = timeline.at(now)
        if valid is not None and self._fits(valid):
            self._load(valid)
        for version in timeline.until(soon)[:_KEPT]:
            if self._fits(version):
                with suppress(DeloreanError):  # it is not in use yet, and loading is retried
                    self._load(version)
        self._timeline, self.published = timeline, list(versions)
        self._served(valid, now)

    def newest(self, now: datetime, index: SnapshotIndex) -> LoadedVersion | None:
        """Return the version that is valid now, among those of the last refresh."""
        timeline = self._timeline
        if timeline is None or now < timeline.since:  # the clock was set back
            return self.at(now, index)
        return self._served(timeline.at(now), now)

    def at(self, moment: datetime, index: SnapshotIndex) -> LoadedVersion | None:
        """Return the version that is valid at a moment, according to the index now."""
        version = published_version_at(index, self._element.name, self._rule, moment)
        return self._load(version) if version is not None and self._fits(version) else None

    def refuse_other_type(self) -> None:
        """Raise ConfigError where the version that is valid now cannot be read as the element's type."""
        now = None if self._timeline is None else self._timeline.at(self._timeline.since)
        if now is not None and not self._fits(now):
            raise ConfigError.because(self._misfit(now), "publish it with that type, or train again")

    def _served(self, version: GlobalVersion | None, now: datetime) -> LoadedVersion | None:
        """Return the version for live requests, or its replacement, and note what is wrong with it."""
        if version is None or not self._fits(version):
            self._note(None if version is None else f"{self._misfit(version)}: the element is absent")
            return None
        try:
            self._last = self._load(version)
            self._note(None)
        except DeloreanError as error:
            last = self._last
            self._note(f"version '{version.version_id}' of '{self._element.name}' cannot be read: {error}")
            if last is None:
                raise
            return last if version_at((last.version,), self._rule, now) is not None else None
        return self._last

    def _note(self, problem: str | None) -> None:
        """Note what is wrong with the valid version; log a problem when it begins."""
        if problem is not None:
            self.unusable += 1
            if problem != self.problem:
                _log.warning("%s", problem)
        self.problem = problem

    def _fits(self, version: GlobalVersion) -> bool:
        return self._element.reads(version.element.type)

    def _misfit(self, version: GlobalVersion) -> str:
        return (
            f"version '{version.version_id}' of '{self._element.name}' is {version.element.type}, which cannot be read "
            f"as {self._element.type}, the type that the model was trained with"
        )

    def _load(self, version: GlobalVersion) -> LoadedVersion:
        loaded = self._in_memory(version)
        if loaded is not None:
            return loaded
        with self._loading:  # a table is read once, however many requests need it
            loaded = self._in_memory(version)
            if loaded is not None:
                return loaded
            if version.version_id in self._unreadable:
                raise self._unreadable[version.version_id]
            try:
                read = LoadedVersion(version, self._read(version))
            except Exception as error:  # an untranslated error of a driver must not fail requests either
                ours = error if isinstance(error, DeloreanError) else StorageError(f"{type(error).__name__}: {error}")
                self._unreadable[version.version_id] = ours
                raise ours from error
            with self._lock:
                self.loaded[version.version_id] = read
                while len(self.loaded) > _KEPT:
                    self.loaded.popitem(last=False)
            return read

    def _in_memory(self, version: GlobalVersion) -> LoadedVersion | None:
        with self._lock:
            if version.version_id in self.loaded:
                self.loaded.move_to_end(version.version_id)
            return self.loaded.get(version.version_id)

    def _read(self, version: GlobalVersion) -> pa.Array:
        rows = version_rows(self._element, version, self._storage)
        offsets = pa.array([0, len(rows)], pa.int32())
        return pa.ListArray.from_arrays(offsets, rows, type=pa.list_(self._element.type))
