"""Tables of what was selected and captured, in Spark SQL: `contexts('homepage')` and `captures('viewing_history')`.

Calls in a query are replaced by names of views. A Python table function would read everything in one task; a view is
read in place by many, and only from files of the dates that are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from schemas.errors import DeloreanError
from snapshotter.index import SnapshotIndex
from snapshotter.selection.capture_table import capture_table
from snapshotter.selection.context_table import context_table
from snapshotter.selection.state_table import FIRST_DATE, LAST_DATE, StateTable, TableCall

_TEXT = r"'[^'\\]*'|\"[^\"\\]*\""
_DATE = rf"{_TEXT}|:date(?:\s*[-+]\s*\d+)?"
_SKIPPED = r"--[^\n]*|/\*.*?\*/|`[^`]*`|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_CALL = re.compile(
    rf"(?P<skipped>{_SKIPPED})|(?<![\w.])(?P<table>contexts|captures)\s*\(\s*(?P<name>{_TEXT})"
    rf"(?P<dates>(?:\s*,\s*(?:{_DATE}))*)\s*\)",
    re.IGNORECASE | re.DOTALL,
)


def state_tables(
    query: str,
    index: SnapshotIndex,
    kind: type[DeloreanError],
    day: date | None = None,
    selecting: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, tuple[StateTable, ...]]:
    """Find the calls in a query. Returns the query with names of views in their place, and the tables.

    `contexts('homepage')` or `contexts('homepage', '2026-05-01', '2026-05-07')`, first and last date: the contexts
    that an experiment selected, with the columns of its key, `date`, `stratum`, `inclusion_probability` and
    `context_set_id`. `captures('viewing_history')`, also with dates of capture, UTC: what was captured of an element,
    with the columns of the service's key, `captured_at`, `run_id` and `value`; fallbacks are no captures.

    A date may be relative to the query's: `contexts('homepage', :date - 7, :date - 1)`.

    kind: of the errors
    day: contexts are those of dates up to this one, and captures those from before it began
    selecting: the experiments that contexts are selected for on that day → the columns of their keys. Then contexts
        are those of earlier dates; where there are none, the table is empty

    Raises `kind` for unknown names, with similar ones, for other arguments, and for keys that changed over the dates.
    """
    tables: dict[tuple[str, ...], StateTable] = {}

    def replaced(match: re.Match[str]) -> str:
        if match["skipped"] is not None:
            return match[0]
        what, name = match["table"].lower(), match["name"][1:-1]
        texts = re.findall(_DATE, match["dates"], re.IGNORECASE)
        key = (what, name, *texts)
        if key not in tables:
            call = TableCall(what, name, *_dates(what, name, texts, day, kind))
            view = f"{what}_of_{re.sub(r'[^0-9A-Za-z_]+', '_', name)}_{len(tables) + 1}"
            if what == "captures":
                tables[key] = capture_table(view, call, index, kind, day)
            else:
                tables[key] = context_table(view, call, index, kind, day, selecting)
        return tables[key].view

    text = _CALL.sub(replaced, query)
    return text, tuple(tables.values())


def _dates(
    what: str, name: str, texts: Sequence[str], day: date | None, kind: type[DeloreanError]
) -> tuple[date, date]:
    shown = f"{what}({', '.join([repr(name), *texts])})"
    if not texts:
        return FIRST_DATE, LAST_DATE
    try:
        first, last = (_date(text, day) for text in texts)
    except (ValueError, OverflowError) as error:
        raise kind.because(
            f"{shown} has other arguments than a name and two dates",
            f"write {what}('{name}'), {what}('{name}', '2026-01-01', '2026-01-31') or, where the query is for a date,"
            f" {what}('{name}', :date - 7, :date - 1)",
        ) from error
    if first > last:
        raise kind.because(f"{shown}: the first date is after the last", "exchange them")
    return first, last


def _date(text: str, day: date | None) -> date:
    if not text.startswith(":"):
        return date.fromisoformat(text[1:-1])
    if day is None:
        raise ValueError(text)
    return day + timedelta(days=int(re.sub(r"\s", "", text[len(":date") :]) or 0))
