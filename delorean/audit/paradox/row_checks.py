"""What each row shows of itself: the order of its times, its lists, its spread and confidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.paradox.report import Ledger
from delorean.audit.paradox.rows import Rows, moment, span
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
_FOREVER = 1 << 61  # microseconds: longer than any age, short enough to subtract


def check_window(rows: Rows, ledger: Ledger) -> None:
    """Hold each capture against the row's time, by the rule that lineage gives for the element."""
    for element in (*rows.stored.services, *rows.stored.globals):
        at, there = rows.captured(element)
        there = there & rows.timed
        rule = rows.stored.lineage["rules"].get(element, {})
        last = rows.time - _micros(rule.get("lag_seconds"), 0)
        first = rows.time - _micros(rule.get("max_age_seconds"), _FOREVER)

        def late(row: int, element: str = element, at: NDArray[np.int64] = at) -> str:
            return f"{rows.name(row)}: {element} captured {moment(at[row])}, {span(at[row] - rows.time[row])} after it"

        def early(row: int, element: str = element, at: NDArray[np.int64] = at) -> str:
            return f"{rows.name(row)}: {element} captured {moment(at[row])}, {span(rows.time[row] - at[row])} before it"

        ledger.add(WINDOW, f"{element} was captured after the row's time", there & (at > rows.time), late)
        ledger.add(
            WINDOW,
            f"{element} was captured within the lag before the row's time",
            there & (at > last) & (at <= rows.time),
            early,
        )
        if not rule.get("allow_exact", True):
            ledger.add(WINDOW, f"{element} was captured exactly at the window's open end", there & (at == last), early)
        ledger.add(WINDOW, f"{element} is older than its max_age", there & (at < first), early)


def check_latest_input(rows: Rows, ledger: Ledger) -> None:
    """Hold latest_input_at against all captures of the row."""
    _, last, present = rows.extremes((*rows.stored.services, *rows.stored.globals))
    said, given = rows.times(LATEST_INPUT_COLUMN)

    def example(row: int) -> str:
        captured = moment(last[row]) if present[row] else "none"
        return (
            f"{rows.name(row)}: it says {moment(said[row]) if given[row] else 'none'}, the latest capture is {captured}"
        )

    ledger.add(
        LATEST, "latest_input_at is not the latest capture", (given != present) | (given & (said != last)), example
    )
    ledger.add(LATEST, "latest_input_at is after the row's time", given & rows.timed & (said > rows.time), example)


def check_outcome(rows: Rows, ledger: Ledger) -> None:
    """Hold the time of the outcome against the row's."""
    at, there = rows.times(OUTCOME_COLUMN)

    def example(row: int) -> str:
        return f"{rows.name(row)}: its outcome was observed {moment(at[row]) if there[row] else 'at no known time'}"

    ledger.add(OUTCOME, "the row has no time", ~rows.timed, example)
    ledger.add(OUTCOME, "it is unknown when the outcome was observed", ~there, example)
    ledger.add(OUTCOME, "the outcome is not later than the row's time", there & rows.timed & (at <= rows.time), example)


def check_lists(rows: Rows, ledger: Ledger) -> NDArray[np.bool_]:
    """Hold the lists' lengths against one another, and items against repetition. Gives the rows that are in order."""
    expected = rows.lengths(LABEL_COLUMN)
    whole = expected >= 0
    ledger.add(LISTS, f"'{LABEL_COLUMN}' has no list", ~whole, rows.name)
    for name in (*rows.stored.items, *rows.stored.features):
        found = rows.lengths(name)

        def example(row: int, name: str = name, found: NDArray[np.int64] = found) -> str:
            return f"{rows.name(row)}: {expected[row]} labels, {found[row] if found[row] >= 0 else 'no list'} of {name}"

        ledger.add(
            LISTS, f"'{name}' is not as long as '{LABEL_COLUMN}'", (found != expected) & (expected >= 0), example
        )
        whole &= found == expected
    _check_items(rows, whole, ledger)
    return whole


def _check_items(rows: Rows, whole: NDArray[np.bool_], ledger: Ledger) -> None:
    names = rows.stored.items
    table = rows.table.select(names).filter(pa.array(whole))
    if not names or table.num_rows == 0:
        return
    lists = {name: one_array(table[name]) for name in names}
    parents = np.flatnonzero(whole)[pc.list_parent_indices(lists[names[0]]).to_numpy()]
    flat = pa.table({"row": parents, **{f"item {name}": pc.list_flatten(found) for name, found in lists.items()}})
    groups = flat.group_by(flat.column_names).aggregate([([], "count_all")])
    twice = groups.filter(pc.greater(groups["count_all"], 1)).sort_by("row")
    broken = np.zeros(len(rows), dtype=bool)
    broken[twice["row"].to_numpy()] = True

    def example(row: int) -> str:
        values = ", ".join(f"{name} {twice[f'item {name}'][0].as_py()}" for name in names)
        return f"{rows.name(row)}: {values}, {twice['count_all'][0].as_py()} times"

    ledger.add(ONE_ITEM, "an item occurs several times in a row", broken, example)


def check_spread(rows: Rows, ledger: Ledger) -> None:
    """Hold spread_seconds against the services' captures and the lineage's limit."""
    first, last, present = rows.extremes(rows.stored.services)
    seconds = (last - first) / 1e6
    said = rows.floats(SPREAD_COLUMN)
    agrees = np.where(present, np.abs(said - seconds) <= _MICRO, np.isnan(said))

    def example(row: int) -> str:
        found = f"{seconds[row]:g} s lie between its captures" if present[row] else "it has no capture of a service"
        return f"{rows.name(row)}: it says {_said(said[row])}, {found}"

    ledger.add(SPREAD, "spread_seconds is not what its captures show", ~agrees, example)
    limit: Mapping[str, Any] = rows.stored.lineage.get("spread") or {}
    if limit:
        torn = present & (seconds > limit["limit_seconds"])
        if limit["beyond"] == "null":
            torn &= _knows(rows, torn, rows.stored.from_services)
        what = f"a row is torn beyond the limit of {limit['limit_seconds']:g} s and says what its services knew"
        ledger.add(SPREAD, what, torn, example)


def _knows(rows: Rows, among: NDArray[np.bool_], features: Iterable[str]) -> NDArray[np.bool_]:
    """Tell which of some rows have a value of any of these features, if only NaN: not null."""
    found = np.zeros(len(rows), dtype=bool)
    for name in features:
        lists = one_array(rows.table[name].filter(pa.array(among)))
        valid = np.asarray(pc.list_flatten(lists).is_valid())
        found[np.flatnonzero(among)[pc.list_parent_indices(lists).to_numpy()[valid]]] = True
    return found


def check_confidence(rows: Rows, ledger: Ledger) -> None:
    """Hold confidence against the confidence that lineage gives of the runs that served the row."""
    shares = rows.stored.lineage[CONFIDENCE_COLUMN]
    lowest = np.full(len(rows), np.inf)
    unknown = np.zeros(len(rows), dtype=bool)
    for element in rows.stored.services:
        known: Mapping[str, float] = shares.get(element, {})
        column = run_column(element)

        def share(run: str, known: Mapping[str, float] = known) -> float:
            return known.get(run, np.nan)

        found = rows.by_value(column, share, np.nan)
        unknown |= np.isnan(found) & ~rows.null(column)
        lowest = np.fmin(lowest, found)
    served = np.isfinite(lowest)
    said = rows.floats(CONFIDENCE_COLUMN)
    agrees = np.where(served, np.abs(said - lowest) <= _MICRO, np.isnan(said))

    def example(row: int) -> str:
        found = f"its runs have {lowest[row]:g}" if served[row] else "no run served it"
        return f"{rows.name(row)}: it says {_said(said[row])}, {found}"

    ledger.add(CONFIDENCE, "the lineage gives no confidence of a run that served the row", unknown, rows.name)
    ledger.add(CONFIDENCE, "confidence is not that of its runs", ~agrees & ~unknown, example)


def _said(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:g}"


def _micros(seconds: float | None, default: int) -> int:
    return default if seconds is None else min(round(seconds * 1e6), _FOREVER)
