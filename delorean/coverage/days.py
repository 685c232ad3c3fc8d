"""Which contexts have state, day by day and service by service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import chain
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.coverage.bucketed_rows import FrameRows
from delorean.coverage.counts import CoverageCounts, empty_cell
from delorean.coverage.element_search import ElementSearch, ServiceSearch, VersionSearch
from delorean.coverage.result import CoverageCell, DayCoverage
from delorean.labels import TIME_COLUMN
from delorean.state.rules import FIRST_MOMENT, AsOf
from delorean.state.snapshot_pages import snapshots_of
from delorean.state.sources import GlobalSource, ServiceSource, captured_within, declared_services
from delorean.state.versions import versions_in_view
from delorean.time_travel import EXPERIMENT_COLUMN, STRATUM_COLUMN, read_chosen_contexts
from schemas.errors import DataKeyError, NotInIndexError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, ContextGroup, ContextSet, ServiceSnapshot, from_micros, to_micros
from snapshotter.selection.context_sets import groups_of, read_contexts, united
from snapshotter.storage import Storage

STRATUM = "stratum"
_GROUP_COLUMN = "__group"
_ONE_DAY = timedelta(days=1)


def day_coverage(
    index: SnapshotIndex,
    storage: Storage,
    *,
    first: date | None = None,
    last: date | None = None,
    at: time | None = None,
    experiment: str | None = None,
    services: Iterable[str] | None = None,
    max_age: timedelta | None = None,
    by: str | None = None,
    contexts_at_once: int = 2_000_000,
) -> DayCoverage:
    """Count the contexts of each day's context set that have state, service by service.

    first, last: UTC days; with both, every day between them, else the days on which contexts were chosen or captured
    at: the time of day, UTC; None: the day's end
    experiment: only the contexts that it chose; the newest context set up to the day is used, as by `TimeMachine`
    services: names of services, or of elements; None: all, and the global elements
    max_age: how old services' state may be, as for `TimeMachine`; None: any age
    by: a context variable, or "stratum", to group contexts by
    contexts_at_once: bounds memory: days are searched together up to this number, so that files are read less often

    Raises NotInIndexError where nothing is published, DataKeyError for unknown services, variables or experiments.
    """
    declared = declared_services(index)
    elements = _chosen_elements(index, declared, services)
    sets = _context_sets(index, experiment)
    rule = AsOf(max_age=max_age)
    window = None if first is None or last is None else rule.window(_moment(first, at), _moment(last, at))
    captured = _captured(index, declared, elements, window)
    moments = [_moment(day, at) for day in _days(captured, sets, first, last)]
    _check_group(by, sets)
    set_of = {moment: _newest(sets, moment.date(), experiment) for moment in moments}
    chosen = {name: snapshots for name, snapshots in captured.items() if name in elements}
    searches = [
        *_service_searches(index, declared, chosen, moments, rule),
        *_version_searches(index, elements, moments),
    ]
    contexts = _Contexts(storage, experiment, by, contexts_at_once, set_of)
    cells = _cells(searches, contexts, list(chain.from_iterable(captured.values())))
    return DayCoverage(
        by_day=tuple(cells),
        at=at,
        experiment=experiment,
        by=by,
        context_sets={
            moment.date(): ", ".join(each.context_set_id for each in of_day)
            for moment, of_day in set_of.items()
            if of_day
        },
    )


def _check_group(by: str | None, sets: Sequence[ContextSet]) -> None:
    variables = {variable.name for group in groups_of(sets) for variable in group.key}
    if by is not None and by != STRATUM and by not in variables:
        raise DataKeyError.unknown("variable to group contexts by", by, {*variables, STRATUM})


@dataclass(frozen=True)
class _MomentsSearch:
    """A search for an element at some moments, in microseconds."""

    search: ElementSearch
    moments: NDArray[np.int64]


def _captured(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    elements: Sequence[str],
    window: tuple[datetime, datetime] | None,
) -> dict[str, list[ServiceSnapshot]]:
    """Return each element's snapshots in a window, the earliest published first, of each service that captured it.

    window: None: all snapshots, those of other elements too, because the days follow from them
    """
    searched = declared if window is None else set(declared).intersection(elements)
    window = window or (FIRST_MOMENT, END_OF_TIME)
    captured = {}
    for element in sorted(searched):
        services = {service.name: service for service in reversed(declared[element])}.values()
        captured[element] = [snapshot for service in services for snapshot in snapshots_of(index, service, window)]
    return captured


def _service_searches(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    captured: Mapping[str, Sequence[ServiceSnapshot]],
    moments: Sequence[datetime],
    rule: AsOf,
) -> Iterator[_MomentsSearch]:
    """Search each moment for the service as it was declared then, as `TimeMachine` does: the latest capture by then."""
    for name, snapshots in captured.items():
        seen_from: dict[Service, list[datetime]] = {}
        first = snapshots[0].service if snapshots else declared[name][-1]
        for moment in moments:
            visible = [s.service for s in snapshots if s.captured_from and s.captured_from <= moment]
            seen_from.setdefault(visible[-1] if visible else first, []).append(moment)
        for service, seen_at in seen_from.items():
            window = rule.window(seen_at[0], seen_at[-1])
            serving = tuple(s for s in snapshots if service.reads(s.service) and captured_within(s, *window))
            source = ServiceSource(service.element, service, rule, serving)
            every = partial(_of_declaration, index, service)
            yield _MomentsSearch(ServiceSearch(source, every), np.array([to_micros(moment) for moment in seen_at]))


def _of_declaration(index: SnapshotIndex, service: Service) -> list[ServiceSnapshot]:
    return [snapshot for snapshot in snapshots_of(index, service) if service.reads(snapshot.service)]


def _version_searches(
    index: SnapshotIndex, elements: Sequence[str], moments: Sequence[datetime]
) -> Iterator[_MomentsSearch]:
    """Search for versions of global elements, each valid until the next, however old."""
    for name in elements:
        newest = index.global_versions(name, END_OF_TIME, 1, skip_unreadable=True)
        if newest:
            versions = versions_in_view(index, name, AsOf(), moments[0], moments[-1])
            search = VersionSearch(GlobalSource(newest[0].element, AsOf(), versions))
            yield _MomentsSearch(search, np.array([to_micros(moment) for moment in moments]))


@dataclass(frozen=True)
class _Contexts:
    """The contexts that are searched at each moment."""

    storage: Storage
    experiment: str | None
    by: str | None
    contexts_at_once: int
    sets: Mapping[datetime, Sequence[ContextSet]]

    def chunks(self) -> Iterator[pa.Table]:
        """Yield context variables, `time` and group, of several moments at once."""
        waiting: list[pa.Table] = []
        last: tuple[Sequence[ContextSet], pa.Table] | None = None
        for moment, context_sets in self.sets.items():
            if not context_sets:
                continue
            if last is None or last[0] != context_sets:
                last = (context_sets, united(self._read(group) for group in groups_of(context_sets, self.experiment)))
            now = pa.array(np.full(last[1].num_rows, to_micros(moment))).cast(TIME)
            waiting.append(last[1].append_column(TIME_COLUMN, now))
            if sum(table.num_rows for table in waiting) >= self.contexts_at_once:
                yield united(waiting)
                waiting = []
        if waiting:
            yield united(waiting)

    def _read(self, group: ContextGroup) -> pa.Table:
        if self.experiment is None and self.by != STRATUM:
            rows = read_contexts(group, self.storage, [variable.name for variable in group.key])
        else:
            rows = read_chosen_contexts(group, self.storage, self.experiment)
        return rows.append_column(_GROUP_COLUMN, self._groups(rows))

    def _groups(self, rows: pa.Table) -> pa.ChunkedArray:
        if self.by is None:
            return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
        if self.by in rows.column_names:
            return pc.fill_null(rows[self.by].cast(pa.string()), "none")
        if self.by != STRATUM:  # contexts with another key
            return pa.chunked_array([pa.array(["none"] * rows.num_rows)])
        if self.experiment is not None:
            return rows[STRATUM_COLUMN]
        return pc.binary_join_element_wise(rows[EXPERIMENT_COLUMN], rows[STRATUM_COLUMN], "/")


def _cells(
    searches: Sequence[_MomentsSearch], contexts: _Contexts, snapshots: Sequence[ServiceSnapshot]
) -> list[CoverageCell]:
    counts = CoverageCounts()

    def count(search: ElementSearch, rows: pa.Table) -> None:
        grouped = [_GROUP_COLUMN] if _GROUP_COLUMN in rows.column_names else []
        for position, part in FrameRows(rows).in_buckets(snapshots).parts([*search.key, *grouped]):
            times = part[TIME_COLUMN].cast(pa.int64()).to_numpy()
            result = search.search(part, position, contexts.storage)
            counts.add(search, times, result, part[_GROUP_COLUMN] if grouped else None)

    for chunk in contexts.chunks():
        for each in searches:
            if each.search.service is not None and set(each.search.key) <= set(chunk.column_names):
                count(each.search, _distinct(chunk, each))
    cells = []
    for each in searches:
        if each.search.service is None:
            count(each.search, pa.table({TIME_COLUMN: pa.array(each.moments).cast(TIME)}))
        filled = counts.cells(each.search)
        filled_days = {cell.day for cell in filled}
        days = [from_micros(int(moment)).date() for moment in each.moments]
        cells += filled + [empty_cell(each.search, day) for day in days if day not in filled_days]
    return sorted(cells, key=lambda cell: cast("date", cell.day))  # stable: elements and groups stay in order


def _distinct(contexts: pa.Table, search: _MomentsSearch) -> pa.Table:
    """Return each key of a service once for each moment and group, without keys with a null, which never match."""
    key = search.search.key
    rows = contexts.select([*key, TIME_COLUMN, _GROUP_COLUMN])
    kept = np.isin(rows[TIME_COLUMN].cast(pa.int64()).to_numpy(), search.moments)
    kept &= np.logical_and.reduce([rows[name].is_valid().to_numpy() for name in key])
    return rows.filter(pa.array(kept)).group_by(rows.column_names).aggregate([])


def _chosen_elements(
    index: SnapshotIndex, declared: Mapping[str, Sequence[Service]], services: Iterable[str] | None
) -> list[str]:
    service_of = {element: of[0].name for element, of in declared.items()}
    elements = [*sorted(declared), *index.global_elements()]
    if not elements:
        raise NotInIndexError.because("nothing has been captured yet", "take a snapshot first: delorean snapshot")
    if services is None:
        return elements
    requested = set(services)
    for name in sorted(requested):
        if name not in {*elements, *service_of.values()}:
            raise DataKeyError.unknown("service or element", name, {*elements, *service_of.values()})
    return [element for element in elements if {element, service_of.get(element)} & requested]


def _context_sets(index: SnapshotIndex, experiment: str | None) -> list[ContextSet]:
    """Return all context sets, or those of an experiment, by date."""
    sets = list(reversed(index.context_sets(date.max, experiment)))
    if experiment is not None and not sets:
        existing = {name for context_set in index.iterate_context_sets() for name in context_set.experiments}
        raise DataKeyError.unknown("experiment with a context set", experiment, existing)
    return sets


def _days(
    captured: Mapping[str, Sequence[ServiceSnapshot]],
    sets: Sequence[ContextSet],
    first: date | None,
    last: date | None,
) -> list[date]:
    if first is not None and last is not None:
        days = [first + n * _ONE_DAY for n in range((last - first).days + 1)]
    else:
        captures = [t for every in captured.values() for s in every for t in (s.captured_from, s.captured_to) if t]
        dates = {context_set.date for context_set in sets} | {moment.astimezone(UTC).date() for moment in captures}
        days = sorted(day for day in dates if (first or date.min) <= day <= (last or date.max))
    if not days:
        raise NotInIndexError.because(
            f"there is no day from {first or 'the beginning'} to {last or 'the end'} with contexts or captures",
            "list the existing ones: delorean index runs, delorean index contexts",
        )
    return days


def _newest(sets: Sequence[ContextSet], day: date, experiment: str | None) -> Sequence[ContextSet]:
    """Return the newest context set of an experiment up to a day; None: all of the newest date. sets: by date."""
    newest = next((context_set for context_set in reversed(sets) if context_set.date <= day), None)
    if newest is None or experiment is not None:
        return [newest] if newest else []
    return [context_set for context_set in sets if context_set.date == newest.date]


def _moment(day: date, at: time | None) -> datetime:
    return datetime.combine(day, time.max if at is None else at, UTC)
