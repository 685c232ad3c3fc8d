"""Which contexts have state, day by day and service by service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import chain, takewhile
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.bucketed_rows import FrameRows
from delorean.coverage.counts import CoverageCounts, empty_cell
from delorean.coverage.day_contexts import GROUP_COLUMN, DayContexts, check_group, context_sets_by, newest_up_to
from delorean.coverage.element_search import ElementSearch, ServiceSearch, VersionSearch
from delorean.coverage.paged_source import PagedSource
from delorean.coverage.result import CoverageCell, DayCoverage
from delorean.labels import TIME_COLUMN
from delorean.state.rules import AsOf
from delorean.state.snapshot_pages import first_page
from delorean.state.source_resolver import declared_services
from delorean.state.sources import GlobalSource
from delorean.state.versions import versions_in_view
from schemas.errors import DataKeyError, NotInIndexError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, ServiceSnapshot, from_micros, to_micros
from snapshotter.storage import Storage

_ONE_DAY = timedelta(days=1)
MOST_DAYS = 31  # that are counted unless a first day is named: a look takes no longer as more and more is captured


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

    first, last: UTC days; with both, every day between them, else the days on which contexts were chosen or captured,
        and without a first one the newest 31 of them
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
    days = _days(index, declared, experiment, first, last)
    sets = context_sets_by(index, days[0], days[-1], experiment)
    check_group(by, sets)
    moments = [_moment(day, at) for day in days]
    set_of = {moment: newest_up_to(sets, moment.date(), experiment) for moment in moments}
    rule = AsOf(max_age=max_age)
    recent = _recent_snapshots(index, declared, elements, moments, rule)
    searches = [
        *_service_searches(index, declared, recent, moments, rule),
        *_version_searches(index, elements, moments),
    ]
    contexts = DayContexts(storage, experiment, by, contexts_at_once, set_of)
    cells = _cells(searches, contexts, list(chain.from_iterable(recent.values())))
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


@dataclass(frozen=True)
class _MomentsSearch:
    """A search for an element at some moments, in microseconds."""

    search: ElementSearch
    moments: NDArray[np.int64]


def _recent_snapshots(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    elements: Sequence[str],
    moments: Sequence[datetime],
    rule: AsOf,
) -> dict[str, list[ServiceSnapshot]]:
    """Return each element's newest snapshots that moments see, of each of its services the earliest published first."""
    window, (_, earliest) = rule.window(moments[0], moments[-1]), rule.window(moments[0], moments[0])
    recent = {}
    for element in sorted(set(declared).intersection(elements)):
        services = {service.name: service for service in reversed(declared[element])}.values()
        pages = (first_page(index, service, window, earliest) for service in services)
        recent[element] = [snapshot for page in pages for snapshot in page.snapshots]
    return recent


def _service_searches(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    recent: Mapping[str, Sequence[ServiceSnapshot]],
    moments: Sequence[datetime],
    rule: AsOf,
) -> Iterator[_MomentsSearch]:
    """Search each moment for the service as it was declared then, as `TimeMachine` does: the latest capture by then."""
    for name, snapshots in recent.items():
        seen_from: dict[Service, list[datetime]] = {}
        first = snapshots[0].service if snapshots else declared[name][-1]
        for moment in moments:
            visible = [s.service for s in snapshots if s.captured_from and s.captured_from <= moment]
            seen_from.setdefault(visible[-1] if visible else first, []).append(moment)
        for service, seen_at in seen_from.items():
            times, usable = (seen_at[0], seen_at[-1]), partial(_is_read_by, service)
            source = PagedSource.of_service(index, service, rule, times, rule.window(*times), usable)
            search = ServiceSearch(source, index, times, usable)
            yield _MomentsSearch(search, np.array([to_micros(moment) for moment in seen_at]))


def _is_read_by(service: Service, snapshot: ServiceSnapshot) -> bool:
    return service.reads(snapshot.service)


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


def _cells(
    searches: Sequence[_MomentsSearch], contexts: DayContexts, snapshots: Sequence[ServiceSnapshot]
) -> list[CoverageCell]:
    counts = CoverageCounts()

    def count(search: ElementSearch, rows: pa.Table) -> None:
        grouped = [GROUP_COLUMN] if GROUP_COLUMN in rows.column_names else []
        for position, part in FrameRows(rows).in_buckets(snapshots).parts([*search.key, *grouped]):
            times = part[TIME_COLUMN].cast(pa.int64()).to_numpy()
            result = search.search(part, position, contexts.storage)
            counts.add(search, times, result, part[GROUP_COLUMN] if grouped else None)

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
    rows = contexts.select([*key, TIME_COLUMN, GROUP_COLUMN])
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


def _days(
    index: SnapshotIndex,
    declared: Mapping[str, Sequence[Service]],
    experiment: str | None,
    first: date | None,
    last: date | None,
) -> list[date]:
    if first is not None and last is not None:
        days = [first + n * _ONE_DAY for n in range((last - first).days + 1)]
    else:
        since, until = first or date.min, last or date.max
        services = sorted({service.name for of_element in declared.values() for service in of_element})
        spans = [_capture_days(index, service, since, until) for service in services]
        selected = (each.date for each in index.iterate_context_sets(until, experiment))
        spans.append((day, day) for day in takewhile(lambda day: day >= since, selected))
        most = MOST_DAYS if first is None else None
        found = {day for each in spans for day in _newest_days(each, most)}
        days = sorted(day for day in found if since <= day <= until)
        days = days if most is None else days[-most:]
    if not days:
        raise NotInIndexError.because(
            f"there is no day from {first or 'the beginning'} to {last or 'the end'} with contexts or captures",
            "list the existing ones: delorean index runs, delorean index contexts",
        )
    return days


def _capture_days(index: SnapshotIndex, service: str, since: date, until: date) -> Iterator[tuple[date, date]]:
    """Yield the days on which each snapshot's captures began and ended, the last end first."""
    window = datetime.combine(since, time.min, UTC), min(datetime.combine(until, time.max, UTC), END_OF_TIME)
    for snapshot in index.iterate_snapshots(service, *window):
        if snapshot.captured_from and snapshot.captured_to:
            yield snapshot.captured_from.astimezone(UTC).date(), snapshot.captured_to.astimezone(UTC).date()


def _newest_days(spans: Iterable[tuple[date, date]], most: int | None) -> set[date]:
    """Return first and last days of spans, which come the last end first: at least the newest so many days."""
    days: set[date] = set()
    ends: set[date] = set()
    for span in spans:
        ends.add(span[1])
        if most is not None and len(ends) > most:
            break
        days.update(span)
    return days


def _moment(day: date, at: time | None) -> datetime:
    return datetime.combine(day, time.max if at is None else at, UTC)
