"""Which contexts one can travel to, day by day and service by service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.coverage.result import Cell, DayCoverage
from delorean.coverage.rows import FrameRows
from delorean.coverage.search import Search, ServiceSearch, VersionSearch, declared_services, every_snapshot
from delorean.coverage.tally import Tally, empty_cell
from delorean.generation import AsOf
from delorean.labels import TIME_COLUMN
from delorean.state.rules import FIRST_MOMENT
from delorean.state.sources import ServiceSource
from delorean.state.versions import GlobalSource, versions_in_view
from delorean.time_travel import EXPERIMENT_COLUMN, STRATUM_COLUMN, read_choices
from schemas.errors import DataKeyError, NotInIndexError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, ContextSet, ServiceSnapshot, from_micros, to_micros
from snapshotter.selection.context_sets import read_context_set
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
    """See how many contexts of each day's context set one can travel to, service by service.

    first, last: UTC days; with both, every day between them, else the days on which contexts were chosen or captured
    at: the time of day travelled to, UTC; None: the day's end
    experiment: only the contexts that it chose; of context sets the newest up to the day counts, as for `TimeMachine`
    services: names of services, or of elements; None: all, and the global elements
    max_age: how old services' state may be, as for `TimeMachine`; None: any age
    by: a context variable, or "stratum", to group contexts by
    contexts_at_once: bounds memory: days are looked at together until they have so many, as files are read less often

    Raises NotInIndexError where nothing is published, DataKeyError for unknown services, variables or experiments.
    """
    declared = declared_services(index)
    elements = _chosen_elements(index, declared, services)
    sets = _context_sets(index, experiment)
    rule = AsOf(max_age=max_age)
    window, looked_at = (FIRST_MOMENT, END_OF_TIME), set(declared)  # all captures tell which days there are
    if first is not None and last is not None:
        window, looked_at = rule.window(_moment(first, at), _moment(last, at)), {*elements} & looked_at
    captured = {name: _captured(index, declared[name], window) for name in sorted(looked_at)}
    days = _days(captured, sets, first, last)
    moments = [_moment(day, at) for day in days]
    of_moment = {moment: _newest(sets, moment.date()) for moment in moments}
    asked = _Asked(storage, experiment, by, contexts_at_once, of_moment)
    context = {variable.name for chosen in sets for variable in chosen.key}
    if by is not None and by != STRATUM and by not in context:
        raise DataKeyError.unknown("variable to group contexts by", by, {*context, STRATUM})
    chosen = {name: snapshots for name, snapshots in captured.items() if name in elements}
    looks = [*_looks(index, declared, chosen, moments, rule), *_version_looks(index, elements, moments)]
    return DayCoverage(
        by_day=tuple(_cells(looks, asked, [s for every in captured.values() for s in every])),
        at=at,
        experiment=experiment,
        by=by,
        context_sets={m.date(): chosen.context_set_id for m, chosen in asked.sets.items() if chosen is not None},
    )


@dataclass(frozen=True)
class _Look:
    """What one sees of an element from moments, in microseconds."""

    search: Search
    moments: NDArray[np.int64]


def _captured(
    index: SnapshotIndex, services: Sequence[Service], window: tuple[datetime, datetime]
) -> list[ServiceSnapshot]:
    """Give an element's snapshots in a window, the earliest published first, of each service that captured it."""
    of_each = {service.name: service for service in reversed(services)}
    return [snapshot for service in of_each.values() for snapshot in every_snapshot(index, service, window)]


def _looks(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    captured: Mapping[str, Sequence[ServiceSnapshot]],
    moments: Sequence[datetime],
    rule: AsOf,
) -> Iterator[_Look]:
    """Look at each moment for the service as it was then, as `TimeMachine` does: the latest that was seen by then."""
    for name, snapshots in captured.items():
        seen_from: dict[Service, list[datetime]] = {}
        first = snapshots[0].service if snapshots else declared[name][-1]
        for moment in moments:
            visible = [s.service for s in snapshots if s.captured_from and s.captured_from <= moment]
            seen_from.setdefault(visible[-1] if visible else first, []).append(moment)
        for service, there in seen_from.items():
            window = rule.window(there[0], there[-1])
            serving = tuple(s for s in snapshots if s.service == service and _captured_within(s, *window))
            source = ServiceSource(service.element, service, rule, serving)
            every = partial(_of_declaration, index, service)
            yield _Look(ServiceSearch(source, every), np.array([to_micros(moment) for moment in there]))


def _of_declaration(index: SnapshotIndex, service: Service) -> list[ServiceSnapshot]:
    return [snapshot for snapshot in every_snapshot(index, service) if snapshot.service == service]


def _version_looks(index: SnapshotIndex, elements: Sequence[str], moments: Sequence[datetime]) -> Iterator[_Look]:
    """Look for versions of global elements, each valid until the next, however old."""
    for name in elements:
        newest = index.global_versions(name, END_OF_TIME, 1, skip_unreadable=True)
        if newest:
            versions = versions_in_view(index, name, AsOf(), moments[0], moments[-1])
            search = VersionSearch(GlobalSource(newest[0].element, AsOf(), versions))
            yield _Look(search, np.array([to_micros(moment) for moment in moments]))


def _captured_within(snapshot: ServiceSnapshot, first: datetime, last: datetime) -> bool:
    begin, end = snapshot.captured_from, snapshot.captured_to
    return begin is not None and end is not None and begin <= last and end >= first


@dataclass(frozen=True)
class _Asked:
    """The contexts that are asked about at each moment."""

    storage: Storage
    experiment: str | None
    by: str | None
    contexts_at_once: int
    sets: Mapping[datetime, ContextSet | None]

    def chunks(self) -> Iterator[pa.Table]:
        """Give context variables, `time` and group, for several moments at once."""
        waiting: list[pa.Table] = []
        read: tuple[ContextSet, pa.Table] | None = None
        for moment, chosen in self.sets.items():
            if chosen is None:
                continue
            if read is None or read[0] is not chosen:
                read = (chosen, self._contexts(chosen))
            now = pa.array(np.full(read[1].num_rows, to_micros(moment))).cast(TIME)
            waiting.append(read[1].append_column(TIME_COLUMN, now))
            if sum(table.num_rows for table in waiting) >= self.contexts_at_once:
                yield pa.concat_tables(waiting, promote_options="default")
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting, promote_options="default")

    def _contexts(self, chosen: ContextSet) -> pa.Table:
        if self.experiment is None and self.by != STRATUM:
            rows = read_context_set(chosen, self.storage, [variable.name for variable in chosen.key])
        else:
            rows = read_choices(chosen, self.storage, self.experiment)
        return rows.append_column(_GROUP_COLUMN, self._groups(rows))

    def _groups(self, rows: pa.Table) -> pa.ChunkedArray:
        if self.by is None:
            return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
        if self.by in rows.column_names:
            return pc.fill_null(rows[self.by].cast(pa.string()), "none")
        if self.by != STRATUM:  # a context set of another key than the others
            return pa.chunked_array([pa.array(["none"] * rows.num_rows)])
        if self.experiment is not None:
            return rows[STRATUM_COLUMN]
        return pc.binary_join_element_wise(rows[EXPERIMENT_COLUMN], rows[STRATUM_COLUMN], "/")


def _cells(looks: Sequence[_Look], asked: _Asked, snapshots: Sequence[ServiceSnapshot]) -> list[Cell]:
    tally = Tally()

    def count(search: Search, rows: pa.Table) -> None:
        grouped = [_GROUP_COLUMN] if _GROUP_COLUMN in rows.column_names else []
        for place, part in FrameRows(rows).in_buckets(snapshots).parts([*search.key, *grouped]):
            times = part[TIME_COLUMN].cast(pa.int64()).to_numpy()
            trace = search.trace(part, place, asked.storage)
            tally.add(search, times, trace, part[_GROUP_COLUMN] if grouped else None)

    for contexts in asked.chunks():
        for look in looks:
            if look.search.service is not None and set(look.search.key) <= set(contexts.column_names):
                count(look.search, _distinct(contexts, look))
    cells = []
    for look in looks:
        if look.search.service is None:
            count(look.search, pa.table({TIME_COLUMN: pa.array(look.moments).cast(TIME)}))
        found = tally.cells(look.search)
        there = {cell.day for cell in found}
        days = [from_micros(int(moment)).date() for moment in look.moments]
        cells += found + [empty_cell(look.search, day) for day in days if day not in there]
    return sorted(cells, key=lambda cell: cast("date", cell.day))  # stable: elements and groups stay in order


def _distinct(contexts: pa.Table, look: _Look) -> pa.Table:
    """Give each key of a service once for each moment and group; a key with a null never matches and is left out."""
    wanted = contexts.select([*look.search.key, TIME_COLUMN, _GROUP_COLUMN])
    kept = np.isin(wanted[TIME_COLUMN].cast(pa.int64()).to_numpy(), look.moments)
    kept &= np.logical_and.reduce([wanted[name].is_valid().to_numpy() for name in look.search.key])
    return wanted.filter(pa.array(kept)).group_by(wanted.column_names).aggregate([])


def _chosen_elements(
    index: SnapshotIndex, declared: Mapping[str, Sequence[Service]], services: Iterable[str] | None
) -> list[str]:
    service_of = {element: of[0].name for element, of in declared.items()}
    elements = [*sorted(declared), *index.global_elements()]
    if not elements:
        raise NotInIndexError.because("nothing has been captured yet", "take a snapshot first: delorean snapshot")
    if services is None:
        return elements
    wanted = set(services)
    for name in sorted(wanted):
        if name not in {*elements, *service_of.values()}:
            raise DataKeyError.unknown("service or element", name, {*elements, *service_of.values()})
    return [element for element in elements if {element, service_of.get(element)} & wanted]


def _context_sets(index: SnapshotIndex, experiment: str | None) -> list[ContextSet]:
    """Give all context sets that may be asked about, by date."""
    sets = list(reversed(index.context_sets(date.max, experiment)))
    if experiment is not None and not sets:
        known = {name for chosen in index.context_sets(date.max) for name in chosen.experiments}
        raise DataKeyError.unknown("experiment with a context set", experiment, known)
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
        known = {chosen.date for chosen in sets} | {moment.astimezone(UTC).date() for moment in captures}
        days = sorted(day for day in known if (first or date.min) <= day <= (last or date.max))
    if not days:
        raise NotInIndexError.because(
            f"there is no day from {first or 'the beginning'} to {last or 'the end'} with contexts or captures",
            "see those there are: delorean index runs, delorean index contexts",
        )
    return days


def _newest(sets: Sequence[ContextSet], day: date) -> ContextSet | None:
    """Give the newest context set up to a day, of sets in order of their dates."""
    return next((chosen for chosen in reversed(sets) if chosen.date <= day), None)


def _moment(day: date, at: time | None) -> datetime:
    return datetime.combine(day, time.max if at is None else at, UTC)
