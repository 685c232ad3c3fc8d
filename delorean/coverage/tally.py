"""Counts what was found, in memory bounded by days, runs and ages that differ, never by rows."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.result import Cell, Spans
from delorean.coverage.search import FOUND, REASONS, Search, Trace

_DAY = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1)
_DROPPED_BITS = 45  # of a float's 52: spans that agree in the other 7 are counted together, within 1/128
_COUNTS = pa.schema(
    [
        ("day", pa.int64()),
        ("group", pa.string()),
        ("outcome", pa.int8()),
        ("served_by", pa.string()),
        ("bin", pa.int64()),
        ("rows", pa.int64()),
        ("longest", pa.int64()),
    ]
)
_BY = ["day", "group", "outcome", "served_by", "bin"]


class Tally:
    """Counts of rows by element, day, group, outcome, what serves them and about how old that is."""

    def __init__(self) -> None:
        self._counts: dict[Search | None, pa.Table] = {}  # None: spreads, measured like ages

    def add(self, search: Search, times: NDArray[np.int64], trace: Trace, group: pa.ChunkedArray | None = None) -> None:
        """Count the rows of a bucket. times: (rows,) microseconds; group: (rows,) names of groups of contexts."""
        self._add(search, times, trace.outcome, trace.served_by, times - trace.captured_at, group)

    def add_spreads(self, spreads: NDArray[np.int64]) -> None:
        """Count spans between captures of a row, microseconds."""
        rows = len(spreads)
        self._add(None, np.zeros(rows, np.int64), np.full(rows, FOUND), pa.nulls(rows, pa.string()), spreads, None)

    def _add(
        self,
        search: Search | None,
        times: NDArray[np.int64],
        outcome: NDArray[np.int8],
        served_by: pa.Array,
        spans: NDArray[np.int64],
        group: pa.ChunkedArray | None,
    ) -> None:
        found = outcome == FOUND
        bins = np.where(found, spans, 0).astype(np.float64).view(np.int64) >> _DROPPED_BITS
        counted = pa.table(
            {
                "day": times // _DAY,
                "group": pa.nulls(len(times), pa.string()) if group is None else group,
                "outcome": outcome.astype(np.int8),
                "served_by": served_by,
                "bin": bins,
                "rows": np.ones(len(times), dtype=np.int64),
                "longest": np.where(found, spans, 0),
            }
        )
        self._counts[search] = _summed(pa.concat_tables([self._of(search), counted]))

    def spread(self) -> Spans:
        """Measure the spans between captures of a row."""
        return _spans(self._of(None))

    def cell(self, search: Search) -> Cell:
        """Sum up all rows of an element."""
        return _cell(search, None, None, self._of(search))

    def cells(self, search: Search) -> list[Cell]:
        """Sum up the rows of an element for each day and group, in order."""
        counts = self._of(search).sort_by([("day", "ascending"), ("group", "ascending")])
        days, groups = counts["day"].to_pylist(), counts["group"].to_pylist()
        ends = [i for i in range(1, len(days)) if (days[i], groups[i]) != (days[i - 1], groups[i - 1])]
        found = []
        for start, end in zip([0, *ends], [*ends, len(days)], strict=True):
            if end > start:
                day = _EPOCH_DAY + timedelta(days=days[start])
                found.append(_cell(search, day, groups[start], counts.slice(start, end - start)))
        return found

    def _of(self, search: Search | None) -> pa.Table:
        return self._counts.get(search, _COUNTS.empty_table())


def _summed(counts: pa.Table) -> pa.Table:
    summed = counts.group_by(_BY, use_threads=False).aggregate([("rows", "sum"), ("longest", "max")])
    return summed.rename_columns({"rows_sum": "rows", "longest_max": "longest"}).select(_COUNTS.names)


def empty_cell(search: Search, day: date) -> Cell:
    """Give the cell of a day without contexts."""
    return Cell(search.element, search.service, day, None, 0, 0, {}, None, None, Spans(None, None, None), {})


def _cell(search: Search, day: date | None, group: str | None, counts: pa.Table) -> Cell:
    outcome, rows = counts["outcome"].to_numpy(), counts["rows"].to_numpy()
    found = counts.filter(pa.array(outcome == FOUND))
    absent = {str(why): int(rows[outcome == code].sum()) for code, why in enumerate(REASONS)}
    runs: dict[str, int] = {}
    for run, served in zip(found["served_by"].to_pylist(), found["rows"].to_pylist(), strict=True):
        runs[run] = runs.get(run, 0) + served
    confidence = [search.confidence[run] for run in runs]
    total = sum(runs.values())
    weighed = math.fsum(search.confidence[run] * served for run, served in runs.items())  # whatever their order
    mean = weighed / total if total else None
    return Cell(
        element=search.element,
        service=search.service,
        day=day,
        group=group,
        rows=int(rows.sum()),
        found=total,
        absent={why: number for why, number in absent.items() if number},
        lowest_confidence=min(confidence, default=None),
        mean_confidence=mean,
        age=_spans(found),
        runs=dict(sorted(runs.items())),
    )


def _spans(found: pa.Table) -> Spans:
    """Give quantiles: the longest span counted together with the one that the quantile falls on."""
    if found.num_rows == 0:
        return Spans(None, None, None)
    bins, where = np.unique(found["bin"].to_numpy(), return_inverse=True)
    rows, longest = np.zeros(len(bins), dtype=np.int64), np.zeros(len(bins), dtype=np.int64)
    np.add.at(rows, where, found["rows"].to_numpy())
    np.maximum.at(longest, where, found["longest"].to_numpy())
    return Spans(*(_quantile(rows, longest, share) for share in (0.5, 0.95, 1.0)))


def _quantile(rows: NDArray[np.int64], longest: NDArray[np.int64], share: float) -> float:
    """Give the span in seconds that at least this share of rows does not exceed."""
    reached = np.cumsum(rows)
    return float(longest[np.searchsorted(reached, np.ceil(share * reached[-1] - 1e-9))]) / 1e6
