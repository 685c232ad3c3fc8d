"""Finds what would serve each context and time, and where nothing would, why not: keys and times are all it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.rows import Place
from delorean.generation import AsOf, ConfidenceFloor
from delorean.generation.matching import find_captures, find_versions, opened_files
from delorean.generation.sources import GlobalSource, ServiceSource, SourceFinder
from delorean.labels import TIME_COLUMN, Labels
from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, DataFile, ServiceSnapshot, to_micros
from snapshotter.storage import Storage


class Absent(StrEnum):
    """Why nothing serves a row. Of several reasons the last of this list counts: it is the nearest to being served."""

    NEVER = "never captured"
    LATER = "only captured later"
    TOO_OLD = "too old"
    BELOW_FLOOR = "below the floor"


REASONS = tuple(Absent)
FOUND = len(REASONS)
_NEVER, _LATER, _TOO_OLD, _BELOW_FLOOR = range(FOUND)
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
    every: all that there are, to say why a row is not served; those under another key are passed over
    floor: what is demanded of them
    """

    def __init__(
        self, source: ServiceSource, every: Sequence[ServiceSnapshot], floor: ConfidenceFloor | None = None
    ) -> None:
        self.element, self.service = source.element.name, source.service.name
        self.key = tuple(variable.name for variable in source.service.key)
        self.confidence = {snapshot.run_id: snapshot.confidence for snapshot in every}
        self._source = source
        self._every = replace(source, snapshots=tuple(s for s in every if s.service.key == source.service.key))
        distrusted = floor is not None and any(snapshot.confidence < floor.floor for snapshot in every)
        stale = _LATER if source.rule.max_age is None else _TOO_OLD
        self._last_word = _BELOW_FLOOR if distrusted else stale

    def trace(self, rows: pa.Table, place: Place, storage: Storage) -> Trace:
        """Find the capture that would serve each row, by the code that generation finds it with."""
        files = list(self._source.files(place.bucket, place.buckets, place.variable))
        with opened_files([file for _, file in files], storage) as readers:
            found = find_captures(rows, self._source.service.key, self._source.rule, readers)
        runs = [snapshot.run_id for snapshot, _ in files]
        skipped = np.isin(found.file, [i for i, run in enumerate(runs) if run in self._source.skipped])
        absent = found.file < 0
        outcome = np.where(skipped, _BELOW_FLOOR, FOUND).astype(np.int8)
        outcome[absent] = self._why(rows.filter(pa.array(absent)), place, storage)
        served_by = pa.array(runs, pa.string()).take(pa.array(found.file, mask=absent | skipped))
        return Trace(outcome, np.where(skipped, 0, found.captured_at), served_by)

    def _why(self, rows: pa.Table, place: Place, storage: Storage) -> NDArray[np.int8]:
        """Say why nothing serves rows: one file at a time, until no file can add anything."""
        why = np.full(rows.num_rows, _NEVER, dtype=np.int8)
        for _, file in self._every.files(place.bucket, place.buckets, place.variable):
            unsure = np.flatnonzero(why < self._last_word)
            if not len(unsure):
                break
            reasons = self._reasons(rows.take(pa.array(unsure)), file, storage)
            why[unsure] = np.maximum(why[unsure], reasons)
        return why

    def _reasons(self, rows: pa.Table, file: DataFile, storage: Storage) -> NDArray[np.int8]:
        """Give the reason that one file has for each row that nothing serves."""
        rule = self._every.rule
        times = rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
        at_the_end = rows.set_column(rows.column_names.index(TIME_COLUMN), TIME_COLUMN, _ends(rows.num_rows))
        asked = pa.concat_tables([rows, at_the_end])  # what is there by its time, and what is there at all
        with opened_files([file], storage) as readers:
            found = find_captures(asked, self._every.service.key, replace(rule, max_age=None), readers)
        by_then, at_all = np.split(found.file >= 0, 2)
        fresh = (
            True if rule.max_age is None else times - found.captured_at[: len(times)] <= rule.max_age // _MICROSECOND
        )
        # What is fresh enough and still serves nothing is in a run that may not.
        reasons = np.where(by_then, np.where(fresh, _BELOW_FLOOR, _TOO_OLD), np.where(at_all, _LATER, _NEVER))
        return reasons.astype(np.int8)


class VersionSearch(Search):
    """Looks for a global element."""

    service = None
    key = ()

    def __init__(self, source: GlobalSource) -> None:
        self.element = source.element.name
        self.confidence = {version.version_id: 1.0 for version in source.versions}  # a version is whole or not there
        self._source = source

    def trace(self, rows: pa.Table, place: Place, storage: Storage) -> Trace:  # noqa: ARG002  # versions have no buckets
        """Find the version that is valid for each row."""
        times = rows[TIME_COLUMN]
        found, valid_from = find_versions(times, self._source)
        earlier, _ = find_versions(times, replace(self._source, rule=replace(self._source.rule, max_age=None)))
        outcome = np.where(found >= 0, FOUND, np.where(earlier >= 0, _TOO_OLD, _LATER)).astype(np.int8)
        versions = pa.array([version.version_id for version in self._source.versions], pa.string())
        return Trace(outcome, valid_from, versions.take(pa.array(found, mask=found < 0)))


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
    captured = captured_elements(index)
    versions = {name: index.global_versions(name, END_OF_TIME) for name in index.global_elements()}
    known = {name: snapshots[-1].service.element for name, snapshots in captured.items()}
    known |= {name: found[0].element for name, found in versions.items()}
    if elements is None:
        context = {key.name for key in labels.context}
        of_others = {n for n, every in captured.items() if not {key.name for key in every[-1].service.key} <= context}
        elements = sorted(known.keys() - of_others)
    chosen = [_known(each, known) if isinstance(each, str) else each for each in elements]
    # Of what generation would refuse, it is to be seen how much it is.
    floors = {n: replace(f, below="skip") if f.below == "fail" else f for n, f in (confidence or {}).items()}
    services, global_sources = SourceFinder(labels, index, rules or {}, floors).find(chosen)
    found: dict[str, Search] = {source.element.name: VersionSearch(source) for source in global_sources}
    for source in services:
        name = source.element.name
        found[name] = ServiceSearch(source, captured[name], floors.get(name))
    return [found[element.name] for element in chosen]


def _known(element: str, known: Mapping[str, DataKey]) -> DataKey:
    if element not in known:
        raise DataKeyError.unknown("data key: nothing was captured of it", element, known)
    return known[element]


def captured_elements(index: SnapshotIndex) -> dict[str, list[ServiceSnapshot]]:
    """Give for each service element its snapshots, the earliest published first, so that of ties the later wins."""
    captured: dict[str, list[ServiceSnapshot]] = {}
    for run in reversed(index.runs()):
        for snapshot in run.services:
            captured.setdefault(snapshot.service.element.name, []).append(snapshot)
    return captured


def _ends(rows: int) -> pa.Array:
    return pa.array(np.full(rows, to_micros(END_OF_TIME))).cast(TIME)
