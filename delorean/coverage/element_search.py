"""Finds what would serve each context and time, and the reason where nothing would, reading keys and times only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.bucketed_rows import BucketPosition
from delorean.coverage.paged_source import PagedSource
from delorean.labels import TIME_COLUMN, Labels
from delorean.state.matches import CaptureFile
from delorean.state.rules import FIRST_MOMENT, AsOf, ConfidenceFloor
from delorean.state.source_resolver import SourceResolver, declared_services
from delorean.state.sources import GlobalSource
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, ServiceSnapshot, to_micros
from snapshotter.storage import Storage


class AbsenceReason(StrEnum):
    """Why nothing serves a row. Of several reasons the last of this list counts: it is the nearest to being served."""

    NEVER = "never captured"
    LATER = "only captured later"
    TOO_OLD = "too old"
    BELOW_FLOOR = "below the floor"
    OTHER_TYPE = "of another type"


REASONS = tuple(AbsenceReason)
FOUND = len(REASONS)
NOT_APPLICABLE = FOUND + 1  # the row's task lacks a variable of the service's key
_NEVER, _LATER, _TOO_OLD, _BELOW_FLOOR, _OTHER_TYPE = range(FOUND)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class SearchResult:
    """What would serve each row.

    outcome: (rows,) FOUND, NOT_APPLICABLE, or the position of the reason among REASONS
    captured_at: (rows,) microseconds, 0 where nothing serves
    served_by: (rows,) ids of snapshot runs or versions, null where nothing serves
    """

    outcome: NDArray[np.int8]
    captured_at: NDArray[np.int64]
    served_by: pa.Array

    def spread_over(self, applicable: NDArray[np.bool_]) -> SearchResult:
        """Return the results of more rows, of which these are the applicable ones. applicable: mask of all rows."""
        positions = np.cumsum(applicable) - 1
        outcome = np.full(len(applicable), NOT_APPLICABLE, dtype=np.int8)
        captured_at = np.zeros(len(applicable), dtype=np.int64)
        outcome[applicable], captured_at[applicable] = self.outcome, self.captured_at
        return SearchResult(outcome, captured_at, self.served_by.take(pa.array(positions, mask=~applicable)))


class ElementSearch(ABC):
    """Searches for one data element."""

    element: str
    service: str | None
    key: tuple[str, ...]
    confidence: Mapping[str, float]  # run or version id → its confidence

    @abstractmethod
    def search(self, rows: pa.Table, position: BucketPosition, storage: Storage) -> SearchResult:
        """Find what would serve rows of one bucket, from their keys and `time`."""


class ServiceSearch(ElementSearch):
    """Searches for a service's element.

    source: the snapshots that may serve
    index: asked for all others, only to explain why a row is not served; those under another key are ignored
    times: the first and the last time of all rows
    usable: whether a snapshot explains anything
    typed: whether the values must be readable as the element's type, as generation demands
    """

    def __init__(
        self,
        source: PagedSource,
        index: SnapshotIndex,
        times: tuple[datetime, datetime],
        usable: Callable[[ServiceSnapshot], bool] = lambda _: True,
        *,
        typed: bool = False,
    ) -> None:
        element, service = source.source.element, source.source.service
        self.element, self.service = element.name, service.name
        self.key = tuple(variable.name for variable in service.key)
        self.confidence: dict[str, float] = {}
        self._source, self._index, self._times, self._usable, self._typed = source, index, times, usable, typed

    def search(self, rows: pa.Table, position: BucketPosition, storage: Storage) -> SearchResult:
        """Find the capture that would serve each row, with the code that generation uses."""
        files, match = self._source.find(rows, position, storage)
        source = self._source.source
        self.confidence |= {snapshot.run_id: snapshot.confidence for snapshot in source.snapshots}
        runs = [snapshot.run_id for snapshot, _ in files]
        skipped = np.isin(match.file, [i for i, run in enumerate(runs) if run in source.skipped])
        mistyped = np.isin(match.file, [i for i, file in enumerate(files) if self._is_mistyped(file)])
        absent = match.file < 0
        outcome = np.where(skipped, _BELOW_FLOOR, np.where(mistyped, _OTHER_TYPE, FOUND)).astype(np.int8)
        if absent.any():
            outcome[absent] = self._reasons(rows.filter(pa.array(absent)), position, storage)
        unusable = skipped | mistyped
        served_by = pa.array(runs, pa.string()).take(pa.array(match.file, mask=absent | unusable))
        return SearchResult(outcome, np.where(unusable, 0, match.captured_at), served_by)

    @cached_property
    def _earlier(self) -> PagedSource:
        """Everything that rows could see at their times if nothing were too old."""
        rule = replace(self._source.source.rule, max_age=None)
        return self._paged(rule, self._times, rule.window(*self._times))

    @cached_property
    def _later(self) -> PagedSource:
        """Everything since the first row's time, for rows that have the end of time as theirs."""
        _, first = self._source.source.rule.window(self._times[0], self._times[0])
        return self._paged(AsOf(), (END_OF_TIME, END_OF_TIME), (first, END_OF_TIME))

    def _paged(self, rule: AsOf, times: tuple[datetime, datetime], captures: tuple[datetime, datetime]) -> PagedSource:
        service = self._source.source.service
        return PagedSource.of_service(self._index, service, rule, times, captures, self._usable)

    def _is_mistyped(self, file: CaptureFile) -> bool:
        return self._typed and not self._source.source.element.reads(file.snapshot.service.element.type)

    def _reasons(self, rows: pa.Table, position: BucketPosition, storage: Storage) -> NDArray[np.int8]:
        """Return why nothing serves rows."""
        rule = self._source.source.rule
        _, earlier = self._earlier.find(rows, position, storage)
        times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
        longest = END_OF_TIME - FIRST_MOMENT if rule.max_age is None else rule.max_age
        fresh = times - earlier.captured_at <= longest // _MICROSECOND
        # A capture that is fresh enough and still does not serve is in a run that may not serve.
        reasons = np.where(fresh, _BELOW_FLOOR, _TOO_OLD).astype(np.int8)
        not_yet = earlier.file < 0
        if not_yet.any():
            at_the_end = rows.filter(pa.array(not_yet)).drop_columns(TIME_COLUMN)
            ends = pa.array(np.full(at_the_end.num_rows, to_micros(END_OF_TIME))).cast(TIME)
            _, ever = self._later.find(at_the_end.append_column(TIME_COLUMN, ends), position, storage)
            reasons[not_yet] = np.where(ever.file < 0, _NEVER, _LATER)
        return reasons


class VersionSearch(ElementSearch):
    """Searches for a global element."""

    service = None
    key = ()

    def __init__(self, source: GlobalSource, *, typed: bool = False) -> None:
        self.element = source.element.name
        self.confidence = {version.version_id: 1.0 for version in source.versions}  # a version is always complete
        self._source, self._typed = source, typed

    def search(self, rows: pa.Table, position: BucketPosition, storage: Storage) -> SearchResult:  # noqa: ARG002  # versions have no buckets
        """Find the version that is valid for each row."""
        times, source = rows[TIME_COLUMN], self._source
        positions, counts_from = source.match(times)
        earlier, _ = replace(source, rule=replace(source.rule, max_age=None)).match(times)
        wrong = [i for i, v in enumerate(source.versions) if self._typed and not source.element.reads(v.element.type)]
        mistyped = np.isin(positions, wrong)
        reasons = np.where(mistyped, _OTHER_TYPE, np.where(earlier >= 0, _TOO_OLD, _LATER))
        served = (positions >= 0) & ~mistyped
        return SearchResult(
            np.where(served, FOUND, reasons).astype(np.int8),
            np.where(served, counts_from, 0),
            pa.array(source.ids, pa.string()).take(pa.array(positions, mask=~served)),
        )


def label_searches(
    labels: Labels,
    index: SnapshotIndex,
    elements: Iterable[str | DataKey] | None = None,
    rules: Mapping[str, AsOf] | None = None,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
) -> list[ElementSearch]:
    """Resolve where elements come from, with the code that generation uses.

    elements: None: every one whose key the labels' context has

    Raises DataKeyError for elements that were never captured, that come from several services or whose key the context
    lacks, ConfigError for rules and floors that do not fit.
    """
    declared = declared_services(index)
    existing = {name: services[0].element for name, services in declared.items()}
    existing |= {name: versions[0].element for name in index.global_elements() if (versions := _newest(index, name))}
    if elements is None:
        context = {key.name for key in labels.context}
        unkeyed = {n for n, services in declared.items() if not {key.name for key in services[0].key} <= context}
        elements = sorted(existing.keys() - unkeyed)
    elements = list(elements)
    chosen = [_by_name(each, existing) if isinstance(each, str) else each for each in elements]
    typed = {each.name for each in elements if not isinstance(each, str)}
    # Rows that generation would refuse are counted here instead.
    floors = {n: replace(f, below="skip") if f.below == "fail" else f for n, f in (confidence or {}).items()}
    untyped = {element.name for element in chosen} - typed
    resolver = SourceResolver(labels, index, rules or {}, floors, of_any_type=untyped, paged=True)
    services, global_sources = resolver.resolve(chosen)
    searches: dict[str, ElementSearch] = {
        source.element.name: VersionSearch(source, typed=source.element.name in typed) for source in global_sources
    }
    for source in services:
        paged = PagedSource(source, partial(resolver.service_source, source.element))
        times = (labels.earliest, labels.latest)
        searches[source.element.name] = ServiceSearch(paged, index, times, typed=source.element.name in typed)
    return [searches[element.name] for element in chosen]


def _newest(index: SnapshotIndex, element: str) -> Sequence[GlobalVersion]:
    return index.global_versions(element, END_OF_TIME, 1, skip_unreadable=True)


def _by_name(element: str, existing: Mapping[str, DataKey]) -> DataKey:
    if element not in existing:
        raise DataKeyError.unknown("data key: nothing was captured of it", element, existing)
    return existing[element]
