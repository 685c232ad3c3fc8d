"""Counts search results, in memory bounded by distinct days, runs and ages, never by rows."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.coverage.element_search import FOUND, NOT_APPLICABLE, REASONS, ElementSearch, SearchResult
from delorean.coverage.result import CoverageCell, Spans
from delorean.quantiles import bin_columns, quantiles, sum_bins

_DAY_MICROS = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1)
_GROUPED_BY = {"day": pa.int64(), "group": pa.string(), "outcome": pa.int8(), "served_by": pa.string()}
_COUNTS = pa.schema([*_GROUPED_BY.items(), ("bin", pa.int64()), ("rows", pa.int64()), ("greatest", pa.float64())])


class CoverageCounts:
    """Counts of rows by element, day, group, outcome, the run or version that serves them and its approximate age."""

    def __init__(self) -> None:
        self._counts: dict[ElementSearch | None, pa.Table] = {}  # None: spreads, measured like ages

    def add(
        self,
        search: ElementSearch,
        times: NDArray[np.int64],
        result: SearchResult,
        group: pa.ChunkedArray | None = None,
    ) -> None:
        """Count the rows of a bucket. times: (rows,) microseconds; group: (rows,) names of groups of contexts."""
        self._add(search, times, result, times - result.captured_at, group)

    def add_spreads(self, spreads: NDArray[np.int64]) -> None:
        """Count times between captures of a row, microseconds."""
        zeros = np.zeros(len(spreads), dtype=np.int64)
        outcome = np.full(len(spreads), FOUND, dtype=np.int8)
        self._add(None, zeros, SearchResult(outcome, zeros, pa.nulls(len(spreads), pa.string())), spreads, None)

    def _add(
        self,
        search: ElementSearch | None,
        times: NDArray[np.int64],
        result: SearchResult,
        spans: NDArray[np.int64],
        group: pa.ChunkedArray | None,
    ) -> None:
        counts = pa.table(
            {
                "day": times // _DAY_MICROS,
                "group": pa.nulls(len(times), pa.string()) if group is None else group,
                "outcome": result.outcome,
                "served_by": result.served_by,
                **bin_columns(np.where(result.outcome == FOUND, spans, 0).astype(np.float64)),
            }
        )
        self._counts[search] = sum_bins(pa.concat_tables([self._of(search), counts]), list(_GROUPED_BY))

    def spread(self) -> Spans:
        """Return quantiles of the times between captures of a row."""
        return _spans(self._of(None))

    def cell(self, search: ElementSearch) -> CoverageCell:
        """Return the totals of an element."""
        return _cell(search, None, None, self._of(search))

    def cells(self, search: ElementSearch) -> list[CoverageCell]:
        """Return the totals of an element for each day and group, in order."""
        counts = self._of(search).sort_by([("day", "ascending"), ("group", "ascending")])
        days, groups = counts["day"].to_pylist(), counts["group"].to_pylist()
        ends = [i for i in range(1, len(days)) if (days[i], groups[i]) != (days[i - 1], groups[i - 1])]
        cells = []
        for start, end in zip([0, *ends], [*ends, len(days)], strict=True):
            if end > start:
                day = _EPOCH_DAY + timedelta(days=days[start])
                cells.append(_cell(search, day, groups[start], counts.slice(start, end - start)))
        return cells

    def _of(self, search: ElementSearch | None) -> pa.Table:
        return self._counts.get(search, _COUNTS.empty_table())


def empty_cell(search: ElementSearch, day: date) -> CoverageCell:
    """Return the cell of a day without contexts."""
    return _cell(search, day, None, _COUNTS.empty_table())


def _cell(search: ElementSearch, day: date | None, group: str | None, counts: pa.Table) -> CoverageCell:
    outcome, rows = counts["outcome"].to_numpy(), counts["rows"].to_numpy()
    served = counts.filter(pa.array(outcome == FOUND))
    absent = {str(reason): int(rows[outcome == code].sum()) for code, reason in enumerate(REASONS)}
    runs: dict[str, int] = {}
    for run, count in zip(served["served_by"].to_pylist(), served["rows"].to_pylist(), strict=True):
        runs[run] = runs.get(run, 0) + count
    total = sum(runs.values())
    weighted = math.fsum(search.confidence[run] * count for run, count in runs.items())  # exact in any order
    return CoverageCell(
        element=search.element,
        service=search.service,
        day=day,
        group=group,
        rows=int(rows[outcome != NOT_APPLICABLE].sum()),
        found=total,
        absent={reason: count for reason, count in absent.items() if count},
        lowest_confidence=min((search.confidence[run] for run in runs), default=None),
        mean_confidence=weighted / total if total else None,
        age=_spans(served),
        runs=dict(sorted(runs.items())),
        not_applicable=int(rows[outcome == NOT_APPLICABLE].sum()),
    )


def _spans(counts: pa.Table) -> Spans:
    if counts.num_rows == 0:
        return Spans(None, None, None)
    return Spans(*(span / 1e6 for span in quantiles(counts, (0.5, 0.95, 1.0))))
