"""Checks of rows against their own columns and the lineage: times, lists, spread and confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.report import FindingCounts
from delorean.audit.paradox.row_batch import RowBatch, moment, span
from delorean.feature_sets.columns import CONFIDENCE_COLUMN, LATEST_INPUT_COLUMN, SPREAD_COLUMN, run_column
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN
from encoders.columns import one_array

WINDOW = "inputs were captured within the window of their as-of rule"
LATEST = "latest_input_at is the latest capture, and not after the row's time"
OUTCOME = "outcomes come later than the row's time"
LISTS = "all lists of a row are as long as its items"
ONE_ITEM = "no row has an item twice"
SPREAD = "spread_seconds is what lies between the services' captures, within the limit"
CONFIDENCE = "confidence is the lowest of the runs that served the row"
_MICRO = 1e-6
_FOREVER = 1 << 61  # microseconds: longer than any age, and differences do not overflow


def check_window(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare each capture with the row's time, by the rule that the lineage records for the element."""
    for element in (*rows.stored.services, *rows.stored.globals):
        at, existing = rows.captured(element)
        existing = existing & rows.timed
        rule = rows.stored.lineage["rules"].get(element, {})
        last = rows.time - _micros(rule.get("lag_seconds"), 0)
        first = rows.time - _micros(rule.get("max_age_seconds"), _FOREVER)
        problems = {
            "was captured after the row's time": at > rows.time,
            "was captured within the lag before the row's time": (at > last) & (at <= rows.time),
            "was captured exactly at the window's open end": (at == last) & (not rule.get("allow_exact", True)),
            "is older than its max_age": at < first,
        }
        for problem, broken in problems.items():
            findings.add(WINDOW, f"{element} {problem}", existing & broken, _capture_example(rows, element, at))


def _capture_example(rows: RowBatch, element: str, at: NDArray[np.int64]) -> Callable[[int], str]:
    """Return a function that describes a row and the capture of an element. at: (rows,) times of capture."""

    def example(row: int) -> str:
        age = rows.time[row] - at[row]
        side = "before" if age >= 0 else "after"
        return f"{rows.name(row)}: {element} captured {moment(at[row])}, {span(abs(age))} {side} it"

    return example


def check_latest_input(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare latest_input_at with all captures of the row."""
    _, last, present = rows.extremes((*rows.stored.services, *rows.stored.globals))
    recorded, existing = rows.times(LATEST_INPUT_COLUMN)

    def example(row: int) -> str:
        stated, captured = (
            moment(at[row]) if mask[row] else "none" for at, mask in ((recorded, existing), (last, present))
        )
        return f"{rows.name(row)}: it says {stated}, the latest capture is {captured}"

    findings.add(
        LATEST,
        "latest_input_at is not the latest capture",
        (existing != present) | (existing & (recorded != last)),
        example,
    )
    findings.add(
        LATEST, "latest_input_at is after the row's time", existing & rows.timed & (recorded > rows.time), example
    )


def check_outcome(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare the time of the outcome with the row's."""
    at, existing = rows.times(OUTCOME_COLUMN)

    def example(row: int) -> str:
        return (
            f"{rows.name(row)}: its outcome was observed {moment(at[row]) if existing[row] else 'at an unknown time'}"
        )

    findings.add(OUTCOME, "the row has no time", ~rows.timed, example)
    findings.add(OUTCOME, "it is unknown when the outcome was observed", ~existing, example)
    findings.add(
        OUTCOME, "the outcome is not later than the row's time", existing & rows.timed & (at <= rows.time), example
    )


def check_lists(rows: RowBatch, findings: FindingCounts) -> NDArray[np.bool_]:
    """Compare the lists' lengths, and search for repeated items. Returns a mask of the rows with aligned lists."""
    first, *others = rows.stored.of_items
    what = "labels" if first == LABEL_COLUMN else f"values of {first}"
    expected = rows.lengths(first)
    whole = expected >= 0
    findings.add(LISTS, f"'{first}' has no list", ~whole, rows.name)
    for name in others:
        lengths = rows.lengths(name)

        def example(row: int, name: str = name, lengths: NDArray[np.int64] = lengths) -> str:
            length = lengths[row] if lengths[row] >= 0 else "no list"
            return f"{rows.name(row)}: {expected[row]} {what}, {length} of {name}"

        findings.add(LISTS, f"'{name}' is not as long as '{first}'", (lengths != expected) & (expected >= 0), example)
        whole &= lengths == expected
    _check_items(rows, whole, findings)
    return whole


def _check_items(rows: RowBatch, whole: NDArray[np.bool_], findings: FindingCounts) -> None:
    names = rows.stored.items
    table = rows.table.select(names).filter(pa.array(whole))
    if not names or table.num_rows == 0:
        return
    lists = {name: one_array(table[name]) for name in names}
    parents = np.flatnonzero(whole)[pc.list_parent_indices(lists[names[0]]).to_numpy()]
    flat = pa.table({"row": parents, **{f"item {name}": pc.list_flatten(items) for name, items in lists.items()}})
    groups = flat.group_by(flat.column_names).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups["count_all"], 1)).sort_by("row")
    broken = np.zeros(len(rows), dtype=bool)
    broken[repeated["row"].to_numpy()] = True

    def example(row: int) -> str:
        values = ", ".join(f"{name} {repeated[f'item {name}'][0].as_py()}" for name in names)
        return f"{rows.name(row)}: {values}, {repeated['count_all'][0].as_py()} times"

    findings.add(ONE_ITEM, "an item occurs several times in a row", broken, example)


def check_spread(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare spread_seconds with the services' captures and the lineage's limit."""
    first, last, present = rows.extremes(rows.stored.services)
    seconds = (last - first) / 1e6
    recorded = rows.floats(SPREAD_COLUMN)
    agrees = np.where(present, np.abs(recorded - seconds) <= _MICRO, np.isnan(recorded))

    def example(row: int) -> str:
        actual = f"{seconds[row]:g} s lie between its captures" if present[row] else "it has no capture of a service"
        return f"{rows.name(row)}: it says {_number(recorded[row])}, {actual}"

    findings.add(SPREAD, "spread_seconds is not what its captures show", ~agrees, example)
    limit: Mapping[str, Any] = rows.stored.lineage.get("spread") or {}
    if limit:
        torn = present & (seconds > limit["limit_seconds"])
        if limit["beyond"] == "null":
            torn &= _has_value(rows, torn, rows.stored.from_services)
        what = f"the spread is beyond the limit of {limit['limit_seconds']:g} s, and the row has features of services"
        findings.add(SPREAD, what, torn, example)


def _has_value(rows: RowBatch, among: NDArray[np.bool_], features: Iterable[str]) -> NDArray[np.bool_]:
    """Return a mask of those rows among some that have a value, NaN included, of any of these features."""
    mask = np.zeros(len(rows), dtype=bool)
    for name in features:
        lists = one_array(rows.table[name].filter(pa.array(among)))
        valid = np.asarray(pc.list_flatten(lists).is_valid())
        mask[np.flatnonzero(among)[pc.list_parent_indices(lists).to_numpy()[valid]]] = True
    return mask


def check_confidence(rows: RowBatch, findings: FindingCounts) -> None:
    """Compare confidence with the confidence that the lineage records for the runs that served the row."""
    shares = rows.stored.lineage[CONFIDENCE_COLUMN]
    lowest = np.full(len(rows), np.inf)
    unknown = np.zeros(len(rows), dtype=bool)
    for element in rows.stored.services:
        recorded_runs: Mapping[str, float] = shares.get(element, {})
        column = run_column(element)

        def confidence(run: str, runs: Mapping[str, float] = recorded_runs) -> float:
            return runs.get(run, np.nan)

        of_rows = rows.by_value(column, confidence, np.nan)
        unknown |= np.isnan(of_rows) & ~rows.null(column)
        lowest = np.fmin(lowest, of_rows)
    served = np.isfinite(lowest)
    recorded = rows.floats(CONFIDENCE_COLUMN)
    agrees = np.where(served, np.abs(recorded - lowest) <= _MICRO, np.isnan(recorded))

    def example(row: int) -> str:
        actual = f"its runs have {lowest[row]:g}" if served[row] else "no run served it"
        return f"{rows.name(row)}: it says {_number(recorded[row])}, {actual}"

    findings.add(CONFIDENCE, "the lineage records no confidence for a run that served the row", unknown, rows.name)
    findings.add(CONFIDENCE, "confidence is not that of its runs", ~agrees & ~unknown, example)


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:g}"


def _micros(seconds: float | None, default: int) -> int:
    return default if seconds is None else min(round(seconds * 1e6), _FOREVER)
