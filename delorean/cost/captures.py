"""What captures cost: from the index alone, shared among the experiments that selected their contexts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta

from delorean.cost.result import Amounts, CostEntry
from delorean.state.versions import newest_versions
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, GlobalVersion, SnapshotRun

_PAGE = 100
_SELECTED_BEFORE = timedelta(days=31)  # no run captures a context set that is older than its answers by more


def capture_entries(index: SnapshotIndex, since: date, until: date, owners: Mapping[str, str]) -> Iterator[CostEntry]:
    """Yield what the runs that were published on some days took, for each experiment, and versions of elements.

    What a run took of a service is divided in proportion to the contexts of those experiments in its context set that
    the service was asked for; a context that two experiments selected counts for both.
    """
    sets = _ContextSets(index)
    for run in _published(index, since, until):
        context_set, day = sets.of_run(run), _day(run.published_at or run.started_at)
        for service in run.services:
            size = sum(file.bytes for file in service.files)
            for experiment, share in _shares(context_set, run, service.service.name).items():
                amounts = Amounts(service.asked * share, size * share)
                yield CostEntry(day, experiment, owners.get(experiment, ""), amounts)
    for element in index.global_elements():
        for version in newest_versions(index, element, _begins(until + timedelta(days=1))):
            if version.valid_from < _begins(since):
                break
            day = _day(version.published_at or version.valid_from)
            if since <= day <= until:
                yield CostEntry(day, "", "", _stored(version))


def _stored(version: GlobalVersion) -> Amounts:
    return Amounts(captured_bytes=sum(file.bytes for file in version.files))


def _published(index: SnapshotIndex, since: date, until: date) -> Iterator[SnapshotRun]:
    """Yield the runs published from the first day to the end of the last, the latest first, read in pages."""
    before: datetime | None = _begins(until + timedelta(days=1))
    while runs := index.runs(_PAGE, before):
        for run in runs:
            if run.published_at is not None and run.published_at < _begins(since):
                return
            yield run
        before = runs[-1].published_at


class _ContextSets:
    """Finds the context sets of runs, reading those of a day only when a run needs them."""

    def __init__(self, index: SnapshotIndex) -> None:
        self._unread = index.iterate_context_sets()
        self._read: dict[str, ContextSet] = {}
        self._last = date.max

    def of_run(self, run: SnapshotRun) -> ContextSet | None:
        # By its answers' times: the day of a context set may be long before the run was published.
        captured = [service.captured_from for service in run.services if service.captured_from is not None]
        oldest = _day(min(captured, default=run.started_at)) - _SELECTED_BEFORE
        while run.context_set_id not in self._read and self._last >= oldest:
            context_set = next(self._unread, None)
            self._last = date.min if context_set is None else context_set.date
            if context_set is not None:
                self._read[context_set.context_set_id] = context_set
        return self._read.get(run.context_set_id)


def _shares(context_set: ContextSet | None, run: SnapshotRun, service: str) -> dict[str, float]:
    """Return each experiment's share of a run's requests to a service; under "" if no selection is recorded."""
    if context_set is None:
        return {"": 1.0}
    without = run.not_applicable.get(service, ())
    selected = [experiment for group in context_set.groups for experiment in group.experiments]
    taken = {each.id: 0 for each in selected if each.needs(service) and each.id not in without}
    for stratum in context_set.report:
        if stratum.experiment in taken:
            taken[stratum.experiment] += stratum.taken
    total = sum(taken.values())
    if not total:
        return {name: 1 / len(taken) for name in taken} or {"": 1.0}
    return {name: count / total for name, count in taken.items() if count}


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _begins(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
