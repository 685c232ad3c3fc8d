"""Finds what would serve each context and time, and where nothing would, why not: keys and times are all it reads."""

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

from delorean.coverage.rows import Place
from delorean.generation import AsOf, ConfidenceFloor
from delorean.labels import TIME_COLUMN, Labels
from delorean.state.captures import find_captures
from delorean.state.matched import CaptureFile, FoundCaptures
from delorean.state.rules import FIRST_MOMENT
from delorean.state.sources import ServiceSource, SourceFinder
from delorean.state.versions import GlobalSource
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, ServiceSnapshot, to_micros
from snapshotter.storage import Storage


class Absent(StrEnum):
    """Why nothing serves a row. Of several reasons the last of this list counts: it is the nearest to being served."""

    NEVER = "never captured"
    LATER = "only captured later"
    TOO_OLD = "too old"
    BELOW_FLOOR = "below the floor"
    OTHER_TYPE = "of another type"


REASONS = tuple(Absent)
FOUND = len(REASONS)
_NEVER, _LATER, _TOO_OLD, _BELOW_FLOOR, _OTHER_TYPE = range(FOUND)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Trace:
    """What would serve each row.

    outcome: (rows,) FOUND, or the position of the reason among REASONS
    captured_at: (rows,) microseconds, 0 where nothing was found
    served_by: (rows,) ids of snapshot runs or versions, null where nothing was found
    """

    outcome: NDArray[np.int8]
    captured_at: NDArray[np.int64]
    served_by: pa.Array


class Search(ABC):
    """Looks for one data element."""

    element: str
    service: str | None
    key: tuple[str, ...]
    confidence: Mapping[str, float]  # run or version id → its confidence

    @abstractmethod
    def trace(self, rows: pa.Table, place: Place, storage: Storage) -> Trace:
        """Find what would serve rows of one bucket, given their keys and `time`."""


class ServiceSearch(Search):
    """Looks for a service's element.

    source: the snapshots that may serve
    every: gives all that there are, asked only to say why a row is not served; those under another key are passed over
    typed: whether the values must be of the element's type, as generation demands
    """

    def __init__(
        self, source: ServiceSource, every: Callable[[], Sequence[ServiceSnapshot]], *, typed: bool = False
    ) -> None:
        self.element, self.service = source.element.name, source.service.name
        self.key = tuple(variable.name for variable in source.service.key)
        self.confidence = {snapshot.run_id: snapshot.confidence for snapshot in source.snapshots}
        self._source, self._find_all, self._typed = source, every, typed

    def trace(self, rows: pa.Table, place: Place, storage: Storage) -> Trace:
        """Find the capture that would serve each row, by the code that generation finds it with."""
        files = list(self._source.files(place.bucket, place.buckets, place.variable))
        found = self._found(rows, self._source.rule, files, storage)
        runs = [snapshot.run_id for snapshot, _ in files]
        skipped = np.isin(found.file, [i for i, run in enumerate(runs) if run in self._source.skipped])
        others = np.isin(found.file, [i for i, file in enumerate(files) if self._of_other_type(file)])
        absent = found.file < 0
        outcome = np.where(skipped, _BELOW_FLOOR, np.where(others, _OTHER_TYPE, FOUND)).astype(np.int8)
        if absent.any():
            outcome[absent] = self._why(rows.filter(pa.array(absent)), place, storage)
        hidden = skipped | others
        served_by = pa.array(runs, pa.string()).take(pa.array(found.file, mask=absent | hidden))
        return Trace(outcome, np.where(hidden, 0, found.captured_at), served_by)

    @cached_property
    def _every(self) -> ServiceSource:
        return replace(self._source, snapshots=tuple(self._find_all()))

    def _found(self, rows: pa.Table, rule: AsOf, files: Sequence[CaptureFile], storage: Storage) -> FoundCaptures:
        return find_captures(rows, rows[TIME_COLUMN], self._source.service.key, rule, files, storage)

    def _of_other_type(self, file: CaptureFile) -> bool:
        return self._typed and file.snapshot.service.element.type != self._source.element.type

    def _why(self, rows: pa.Table, place: Place, storage: Storage) -> NDArray[np.int8]:
        """Say why nothing serves rows."""
        rule = self._source.rule
        files = list(self._every.files(place.bucket, place.buckets, place.variable))
        by_then = self._found(rows, replace(rule, max_age=None), files, storage)
        times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
        most = END_OF_TIME - FIRST_MOMENT if rule.max_age is None else rule.max_age
        fresh = times - by_then.captured_at <= most // _MICROSECOND
        # What is fresh enough and still serves nothing is in a run that may not.
        why = np.where(fresh, _BELOW_FLOOR, _TOO_OLD).astype(np.int8)
        later = by_then.file < 0
        if later.any():
            at_the_end = rows.filter(pa.array(later)).drop_columns(TIME_COLUMN)
            at_the_end = at_the_end.append_column(TIME_COLUMN, _ends(at_the_end.num_rows))
            at_all = self._found(at_the_end, AsOf(), files, storage)
            why[later] = np.where(at_all.file < 0, _NEVER, _LATER)
        return why


class VersionSearch(Search):
    """Looks for a global element."""

    service = None
    key = ()

    def __init__(self, source: GlobalSource, *, typed: bool = False) -> None:
        self.element = source.element.name
        self.confidence = {version.version_id: 1.0 for version in source.versions}  # a version is whole or not there
        self._source, self._typed = source, typed

    def trace(self, rows: pa.Table, place: Place, storage: Storage) -> Trace:  # noqa: ARG002  # versions have no buckets
        """Find the version that is valid for each row."""
        times = rows[TIME_COLUMN]
        source = self._source
        found, counts_from = source.find(times)
        earlier, _ = replace(source, rule=replace(source.rule, max_age=None)).find(times)
        wrong = [i for i, v in enumerate(source.versions) if self._typed and v.element.type != source.element.type]
        others = np.isin(found, wrong)
        why_not = np.where(others, _OTHER_TYPE, np.where(earlier >= 0, _TOO_OLD, _LATER))
        served = (found >= 0) & ~others
        versions = pa.array([version.version_id for version in source.versions], pa.string())
        return Trace(
            np.where(served, FOUND, why_not).astype(np.int8),
            np.where(served, counts_from, 0),
            versions.take(pa.array(found, mask=~served)),
        )


def label_searches(
    labels: Labels,
    index: SnapshotIndex,
    elements: Iterable[str | DataKey] | None = None,
    rules: Mapping[str, AsOf] | None = None,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
) -> list[Search]:
    """Resolve where elements come from, by the code that generation resolves it with.

    elements: None: every one that the labels' context has the key of

    Raises DataKeyError for elements that nobody captured, that come from several services or whose key the context
    lacks, ConfigError for rules and floors that do not fit.
    """
    declared = declared_services(index)
    known = {name: services[0].element for name, services in declared.items()}
    known |= {name: versions[0].element for name in index.global_elements() if (versions := _newest(index, name))}
    if elements is None:
        context = {key.name for key in labels.context}
        of_others = {n for n, services in declared.items() if not {key.name for key in services[0].key} <= context}
        elements = sorted(known.keys() - of_others)
    elements = list(elements)
    chosen = [_known(each, known) if isinstance(each, str) else each for each in elements]
    typed = {each.name for each in elements if not isinstance(each, str)}
    # Of what generation would refuse, it is to be seen how much it is.
    floors = {n: replace(f, below="skip") if f.below == "fail" else f for n, f in (confidence or {}).items()}
    untyped = {element.name for element in chosen} - typed
    services, global_sources = SourceFinder(labels, index, rules or {}, floors, of_any_type=untyped).find(chosen)
    found: dict[str, Search] = {
        source.element.name: VersionSearch(source, typed=source.element.name in typed) for source in global_sources
    }
    for source in services:
        every = partial(every_snapshot, index, source.service)
        found[source.element.name] = ServiceSearch(source, every, typed=source.element.name in typed)
    return [found[element.name] for element in chosen]


def _newest(index: SnapshotIndex, element: str) -> Sequence[GlobalVersion]:
    return index.global_versions(element, END_OF_TIME, 1, skip_unreadable=True)


def _known(element: str, known: Mapping[str, DataKey]) -> DataKey:
    if element not in known:
        raise DataKeyError.unknown("data key: nothing was captured of it", element, known)
    return known[element]


def declared_services(index: SnapshotIndex) -> dict[str, list[Service]]:
    """Give for each service element the services that captured it, as declared, the latest published first."""
    declared: dict[str, list[Service]] = {}
    for service in index.elements():
        declared.setdefault(service.element.name, []).append(service)
    return declared


def every_snapshot(
    index: SnapshotIndex, service: Service, window: tuple[datetime, datetime] = (FIRST_MOMENT, END_OF_TIME)
) -> list[ServiceSnapshot]:
    """Give a service's snapshots of one element, the earliest published first, so that of ties the later wins."""
    seen = index.snapshots(service.name, *window)
    return [snapshot for snapshot in reversed(seen) if snapshot.service.element.name == service.element.name]


def _ends(rows: int) -> pa.Array:
    return pa.array(np.full(rows, to_micros(END_OF_TIME))).cast(TIME)
