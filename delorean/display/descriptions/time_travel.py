"""Describes time machines, moments and views of data as of a moment. None of it reads the data itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

from delorean.display.description import describes
from delorean.display.descriptions.snapshots import CONFIDENT, service_row
from delorean.display.parts import MOST_ROWS, Code, Facts, HeatCell, HeatMap, Note, Part, ShareBar, Table
from delorean.time_travel import GlobalView, Moment, ServiceView, TimeMachine, View
from schemas.errors import UnreadableRecordError
from schemas.services import Status
from snapshotter.records import END_OF_TIME, ServiceSnapshot, SnapshotRun

# Limits, so that a look at the machine takes no longer as more and more is captured.
_MOST_RUNS = 200
_MOST_DAYS = 31
_MOST_ELEMENTS = 20
_UNREAD = Note("Nothing is read yet: .to_polars(), .to_pandas(), .to_arrow() and .to_spark(spark) do.")


@describes(TimeMachine)
def _machine(machine: TimeMachine) -> Iterator[Part]:
    runs = machine.index.runs(_MOST_RUNS)
    if any(snapshot.captured_from for run in runs for snapshot in run.services):
        yield _answered_by_day(runs)
    else:
        yield Note("no snapshot is published yet: delorean snapshot takes one")
    names = machine.index.global_elements()
    yield Table([_versions(machine, name) for name in names[:_MOST_ELEMENTS]], "global elements", total=len(names))


def _versions(machine: TimeMachine, element: str) -> dict[str, Any]:
    versions = machine.index.global_versions(element, END_OF_TIME, _MOST_RUNS, skip_unreadable=True)
    newest = versions[0] if versions else None
    return {
        "element": element,
        "versions": len(versions) if len(versions) < _MOST_RUNS else f"{_MOST_RUNS} or more",
        "newest": newest and newest.version_id,
        "valid_from": newest and newest.valid_from,
        "rows": newest and sum(file.rows for file in newest.files),
    }


def _answered_by_day(runs: Sequence[SnapshotRun]) -> HeatMap:
    """A heat map by service and day of what runs recorded; nothing but these records is read."""
    taken: dict[str, dict[date, list[ServiceSnapshot]]] = {}
    for run in runs:
        for snapshot in run.services:
            if snapshot.captured_from is not None:
                by_day = taken.setdefault(snapshot.service.name, {})
                by_day.setdefault(snapshot.captured_from.date(), []).append(snapshot)
    captured = {day for by_day in taken.values() for day in by_day}
    last, span = max(captured), (max(captured) - min(captured)).days
    days = [last - timedelta(days=back) for back in range(min(span, _MOST_DAYS - 1), -1, -1)]
    names = sorted(taken)[:_MOST_ELEMENTS]
    left_out = f", {len(names)} of {len(taken)} services" if len(taken) > len(names) else ""
    return HeatMap(
        f"Share of the contexts asked on each day that services really answered, as the last {len(runs)} runs"
        f" recorded it{left_out}; day_coverage() says what can be travelled to.",
        [day.isoformat() for day in days],
        {
            (name, None): {day.isoformat(): _heat_cell(taken[name][day]) for day in days if day in taken[name]}
            for name in names
        },
    )


def _heat_cell(snapshots: Sequence[ServiceSnapshot]) -> HeatCell:
    asked = sum(snapshot.asked for snapshot in snapshots)
    answered = sum(snapshot.counts.get(Status.OK, 0) for snapshot in snapshots)
    runs = ", ".join(snapshot.run_id for snapshot in snapshots[:3]) + (" …" if len(snapshots) > 3 else "")
    return HeatCell(answered / asked if asked else None, tooltip=f"{answered:,} of {asked:,} in {runs}")


@describes(Moment)
def _moment(moment: Moment) -> Iterator[Part]:
    rows: list[dict[str, Any]] = []
    unreadable = []
    for name in moment.keys():  # noqa: SIM118  # no mapping
        try:
            rows.append(_view_row(moment[name]))
        except UnreadableRecordError as error:
            rows.append({"element": name, "served_by": "a record that cannot be read"})
            unreadable.append(Note(str(error), strong=True))
    yield Table(rows, "what can be seen from here", most=None)
    yield from unreadable
    for contexts in moment.context_sets:
        yield Note(repr(contexts))
    if not moment.context_sets:
        yield Note("no contexts were chosen by then")


def _view_row(view: View) -> dict[str, Any]:
    if isinstance(view, ServiceView):
        newest = next(iter(view.newest(1)), None)
        element, by = view.service.element, ", ".join(variable.name for variable in view.service.key)
        served_by = f"run {newest.run_id}, and earlier ones" if newest else "no run"
        since = newest and newest.captured_to
    else:
        assert isinstance(view, GlobalView)
        element, by = view.version.element, "nothing: one for all"
        served_by, since = f"version {view.version.version_id}", view.version.valid_from
    return {
        "element": element.name,
        "by": by,
        "type": Code(str(element.type)),
        "served_by": served_by,
        "newest": since,
        "confidence": ShareBar(view.confidence, enough=CONFIDENT),
    }


@describes(ServiceView)
def _service_view(view: ServiceView) -> Iterator[Part]:
    snapshots = view.newest(MOST_ROWS)
    columns = ("captured_from", "to", "asked", "answered", "confidence", "size")
    rows = [(snapshot.run_id, service_row(snapshot)) for snapshot in snapshots]
    yield Table(
        [{"run": run_id, **{name: row[name] for name in columns}} for run_id, row in rows],
        f"the newest snapshots seen from here, at most {MOST_ROWS}",
    )
    yield _UNREAD


@describes(GlobalView)
def _global_view(view: GlobalView) -> Iterator[Part]:
    yield Facts({"rows": sum(file.rows for file in view.version.files), "published": view.version.published_at})
    yield _UNREAD
