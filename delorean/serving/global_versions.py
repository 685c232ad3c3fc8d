"""Global elements for serving: the version that the model's as-of rule picks, the ones in use kept in memory.

The rule and the look-up are those of generation. A version that a moment sees and that is of another type than the
model's is never read: its element is absent, as a service's is whose answer does not fit, and `problem` says so. One
that cannot be read for now, or an index that cannot be reached, leaves what was served last in use, within max_age.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import pyarrow as pa

from delorean.serving.background import RepeatedTask
from delorean.state.rules import AsOf
from delorean.state.timeline import Timeline
from delorean.state.versions import index_version_at, version_at, versions_in_view
from encoders.columns import one_array
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DeloreanError, StorageError
from snapshotter.global_elements import read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, from_micros
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVersion:
    """A version and its whole table: one value, a list of rows."""

    version: GlobalVersion
    values: pa.Array


class GlobalVersions:
    """The versions of some global elements. Use it as a context manager; threads may share it.

    rules: element's name → as-of rule that the model was trained with; those not named take `AsOf()`
    refresh: how often published versions are looked for, so how late a new one may be used for live requests
    kept: versions in memory for each element, the longest unused leave first

    Raises ConfigError where the version that is valid now is of another type than the model's.
    """

    def __init__(
        self,
        elements: Sequence[DataKey],
        index: SnapshotIndex,
        storage: Storage,
        clock: Callable[[], int],
        refresh: timedelta = timedelta(seconds=30),
        kept: int = 3,
        rules: Mapping[str, AsOf] | None = None,
    ) -> None:
        self._index, self._clock, self._refresh = index, clock, refresh
        self._elements = {e.name: _Element(e, (rules or {}).get(e.name, AsOf()), storage, kept) for e in elements}
        self._loaded = {name: element.loaded for name, element in self._elements.items()}
        self.refresh()
        for element in self._elements.values():
            element.refuse_other_type()
        self._background = RepeatedTask("looking for new versions of global elements", self.refresh, refresh)

    @property
    def problem(self) -> str | None:
        """What is wrong with the versions in use, for people; None while all is well."""
        problems = [self._background.problem, *(element.problem for element in self._elements.values())]
        return "; ".join(problem for problem in problems if problem) or None

    @property
    def refreshes(self) -> int:
        """How often the background has looked for versions and succeeded."""
        return self._background.runs

    @property
    def failures(self) -> int:
        """How often looking for versions in the background failed."""
        return self._background.failures

    @property
    def _published(self) -> dict[str, list[GlobalVersion]]:
        """The versions that the last refresh saw as valid then or later, the newest first."""
        return {name: element.published[::-1] for name, element in self._elements.items()}

    @property
    def unusable(self) -> int:
        """How many look-ups met a valid version that is of another type or cannot be read."""
        return sum(element.unusable for element in self._elements.values())

    def newest(self, now: datetime) -> dict[str, LoadedVersion | None]:
        """Give each element's version that is valid now, among those that the last refresh found."""
        return {name: element.newest(now, self._index) for name, element in self._elements.items()}

    def at(self, moment: datetime) -> dict[str, LoadedVersion | None]:
        """Give each element's version that was valid at a moment, as the index knows it now."""
        return {name: element.at(moment, self._index) for name, element in self._elements.items()}

    def refresh(self) -> None:
        """Look for published versions, and load those that are valid now or before the refresh after the next."""
        now = from_micros(self._clock())
        errors = []
        for element in self._elements.values():
            try:
                element.refresh(now, self._index, 2 * self._refresh)
            except DeloreanError as error:  # the others are looked for all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the background thread."""
        self._background.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _Element:
    """The versions of one element."""

    def __init__(self, element: DataKey, rule: AsOf, storage: Storage, kept: int) -> None:
        self._element, self._rule, self._storage, self._kept = element, rule, storage, kept
        self.loaded: OrderedDict[str, LoadedVersion] = OrderedDict()
        self.published: list[GlobalVersion] = []
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._timeline: Timeline | None = None
        self._last: LoadedVersion | None = None  # served to live requests
        self._unreadable: dict[str, DeloreanError] = {}  # version → why, until the next refresh
        self.problem: str | None = None
        self.unusable = 0

    def refresh(self, now: datetime, index: SnapshotIndex, ahead: timedelta) -> None:
        """Look for versions, and load those that moments from now on see for some time ahead."""
        versions = versions_in_view(index, self._element.name, self._rule, now, END_OF_TIME)
        timeline = Timeline(versions, self._rule, now)
        self._unreadable = {}
        soon = now + ahead if END_OF_TIME - now > ahead else END_OF_TIME
        valid = timeline.at(now)
        if valid is not None and self._fits(valid):
            self._load(valid)
        for version in timeline.until(soon)[: self._kept]:
            if self._fits(version):
                with suppress(DeloreanError):  # it is not in use yet, and is tried again
                    self._load(version)
        self._timeline, self.published = timeline, list(versions)
        self._served(valid, now)

    def newest(self, now: datetime, index: SnapshotIndex) -> LoadedVersion | None:
        """Give the version that is valid now, among those that the last refresh found."""
        timeline = self._timeline
        if timeline is None or now < timeline.since:  # a clock was set back
            return self.at(now, index)
        return self._served(timeline.at(now), now)

    def at(self, moment: datetime, index: SnapshotIndex) -> LoadedVersion | None:
        """Give the version that a moment sees, as the index knows it now."""
        version = index_version_at(index, self._element.name, self._rule, moment)
        return self._load(version) if version is not None and self._fits(version) else None

    def refuse_other_type(self) -> None:
        """Raise ConfigError where the version that is valid now is of another type."""
        now = None if self._timeline is None else self._timeline.at(self._timeline.since)
        if now is not None and not self._fits(now):
            raise ConfigError.because(self._misfit(now), "publish it with that type, or train again")

    def _served(self, version: GlobalVersion | None, now: datetime) -> LoadedVersion | None:
        """Give a version that live requests see, or what takes its place, and note what is wrong with it."""
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
        """Note what is wrong with the version that is valid now; a problem is logged when it begins."""
        if problem is not None:
            self.unusable += 1
            if problem != self.problem:
                _log.warning("%s", problem)
        self.problem = problem

    def _fits(self, version: GlobalVersion) -> bool:
        return bool(version.element.type == self._element.type)

    def _misfit(self, version: GlobalVersion) -> str:
        return (
            f"version '{version.version_id}' of '{self._element.name}' is {version.element.type}, the model was "
            f"trained with {self._element.type}"
        )

    def _load(self, version: GlobalVersion) -> LoadedVersion:
        found = self._in_memory(version)
        if found is not None:
            return found
        with self._loading:  # a table is read once, however many requests want it
            found = self._in_memory(version)
            if found is not None:
                return found
            if version.version_id in self._unreadable:
                raise self._unreadable[version.version_id]
            try:
                read = LoadedVersion(version, self._read(version))
            except Exception as error:  # a driver's own must not fail a request that an older version can serve
                ours = error if isinstance(error, DeloreanError) else StorageError(f"{type(error).__name__}: {error}")
                self._unreadable[version.version_id] = ours
                raise ours from error
            with self._lock:
                self.loaded[version.version_id] = read
                while len(self.loaded) > self._kept:
                    self.loaded.popitem(last=False)
            return read

    def _in_memory(self, version: GlobalVersion) -> LoadedVersion | None:
        with self._lock:
            if version.version_id in self.loaded:
                self.loaded.move_to_end(version.version_id)
            return self.loaded.get(version.version_id)

    def _read(self, version: GlobalVersion) -> pa.Array:
        row_type = self._element.type
        table = read_global_version(version, self._storage).combine_chunks()
        rows = pa.StructArray.from_arrays([one_array(column) for column in table.columns], fields=list(row_type))
        return pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows, type=pa.list_(row_type))
