"""The results of coverage planning: cells of rows that need one element, and how many of them have it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, time
from typing import Any

import pyarrow as pa

from delorean.frames import Readable
from schemas.plain_text import plain_text

_RUN = pa.struct([("run_id", pa.string()), ("rows", pa.int64())])
_REASON = pa.struct([("reason", pa.string()), ("rows", pa.int64())])
_SCHEMA = pa.schema(
    [
        ("element", pa.string()),
        ("service", pa.string()),
        ("day", pa.date32()),
        ("group", pa.string()),
        ("rows", pa.int64()),
        ("found", pa.int64()),
        ("share", pa.float64()),
        ("absent", pa.list_(_REASON)),
        ("lowest_confidence", pa.float64()),
        ("mean_confidence", pa.float64()),
        ("median_age_seconds", pa.float64()),
        ("p95_age_seconds", pa.float64()),
        ("oldest_age_seconds", pa.float64()),
        ("runs", pa.list_(_RUN)),
        ("not_applicable", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Spans:
    """Quantiles of durations, in seconds; None without durations.

    Medians and 95th percentiles are at most 0.8 % too long, the longest is exact.
    """

    median: float | None
    p95: float | None
    longest: float | None


@dataclass(frozen=True)
class CoverageCell:
    """Rows that need one element, and how many of them have it.

    service: None for a global element
    day: of their times, in UTC; None: all days
    group: of their contexts; None: all
    rows: label rows, or distinct keys of the service among the contexts; for a global element of a day, 1
    absent: why the others have none → how many, see `AbsenceReason`
    lowest_confidence, mean_confidence: of the runs that serve them; the mean is weighted by the rows that a run serves
    age: their times minus the captures that serve them
    runs: id of the snapshot run, or of the version → rows it serves
    not_applicable: further label rows, of tasks that cannot have the element
    """

    element: str
    service: str | None
    day: date | None
    group: str | None
    rows: int
    found: int
    absent: Mapping[str, int]
    lowest_confidence: float | None
    mean_confidence: float | None
    age: Spans
    runs: Mapping[str, int]
    not_applicable: int = 0

    @property
    def share(self) -> float | None:
        """Found / rows; None without rows."""
        return self.found / self.rows if self.rows else None

    @property
    def chief_reason(self) -> str | None:
        """The most frequent reason for absence; None where every row has the element."""
        return max(self.absent, key=lambda why: self.absent[why], default=None)

    def to_json(self) -> dict[str, Any]:
        """Write the cell as plain fields."""
        cell: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "age":
                cell |= {f"{name}_age_seconds": getattr(value, name) for name in ("median", "p95")}
                cell["oldest_age_seconds"] = value.longest
            else:
                cell[field.name] = dict(value) if isinstance(value, Mapping) else value
            if field.name == "found":
                cell["share"] = self.share
        cell["day"] = None if self.day is None else self.day.isoformat()
        return cell


class Coverage(Readable):
    """Coverage as cells and as a frame."""

    @property
    @abstractmethod
    def cells(self) -> Sequence[CoverageCell]:
        """All cells."""

    def to_arrow(self) -> pa.Table:
        """Return the cells as a table, a row for each."""
        return pa.Table.from_pylist([_flat(cell) for cell in self.cells], _SCHEMA)


@dataclass(frozen=True, repr=False)
class DayCoverage(Coverage):
    """Which contexts have state: a cell for each element, day and group of contexts.

    at: the time of day; None: the day's end
    by: the variable that contexts are grouped by; None: no groups
    context_sets: day → the context sets that its contexts are from
    """

    by_day: tuple[CoverageCell, ...]
    at: time | None
    experiment: str | None
    by: str | None
    context_sets: Mapping[date, str]

    @property
    def cells(self) -> Sequence[CoverageCell]:
        """All cells, by day, element and group."""
        return self.by_day

    def __repr__(self) -> str:
        """One line for people."""
        at = "the end of each day" if self.at is None else f"{self.at.isoformat()} of each day"
        contexts = "" if self.experiment is None else f", for the contexts of {self.experiment}"
        grouped = "" if self.by is None else f", by {self.by}"
        days = len({cell.day for cell in self.by_day})
        return plain_text(f"coverage of {days} days: travelling to {at} (UTC){contexts}{grouped}")


@dataclass(frozen=True, repr=False)
class LabelCoverage(Coverage):
    """How much state label data would see if features were generated for it now.

    rows: label rows; complete: those that have every element
    elements: a cell for each element, over all days; by_day: for each element and day of the labels' times
    spread: between the newest and oldest capture of the services' elements of a row
    torn: rows whose spread is beyond the limit, None without a limit
    """

    rows: int
    complete: int
    elements: tuple[CoverageCell, ...]
    by_day: tuple[CoverageCell, ...]
    spread: Spans
    torn: int | None = None

    @property
    def cells(self) -> Sequence[CoverageCell]:
        """The elements' cells, then those of each day."""
        return (*self.elements, *self.by_day)

    def __repr__(self) -> str:
        """One line for people."""
        return f"coverage of {self.rows:,} label rows: {self.complete:,} would find every element"


def _flat(cell: CoverageCell) -> dict[str, Any]:
    return {
        **cell.to_json(),
        "day": cell.day,
        "absent": [{"reason": reason, "rows": rows} for reason, rows in cell.absent.items()],
        "runs": [{"run_id": run, "rows": rows} for run, rows in cell.runs.items()],
    }
