"""Describes coverage: heat maps of days and elements, coloured by share, and what labels would lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from delorean.coverage.element_search import REASONS
from delorean.coverage.result import CoverageCell, DayCoverage, LabelCoverage
from delorean.display.description import describes
from delorean.display.descriptions.snapshots import CONFIDENT
from delorean.display.formats import duration_text
from delorean.display.parts import HeatCell, HeatMap, Note, Part, ShareBar, Table

_MOST_POOR_GROUPS = 20


def _days_document(coverage: DayCoverage) -> dict[str, Any]:
    return {
        "at": None if coverage.at is None else coverage.at.isoformat(),
        "experiment": coverage.experiment,
        "by": coverage.by,
        "context_sets": {day.isoformat(): chosen for day, chosen in coverage.context_sets.items()},
        "cells": [cell.to_json() for cell in coverage.cells],
    }


@describes(DayCoverage, _days_document)
def _days(coverage: DayCoverage) -> Iterator[Part]:
    yield _heat_map(coverage.by_day, "contexts")
    yield Table(_poorly_covered(coverage.by_day), "groups with the lowest share of contexts, over all days")


def _labels_document(coverage: LabelCoverage) -> dict[str, Any]:
    return {
        "rows": coverage.rows,
        "complete": coverage.complete,
        "spread_seconds": dict(vars(coverage.spread)),
        "torn": coverage.torn,
        "elements": [cell.to_json() for cell in coverage.elements],
        "days": [cell.to_json() for cell in coverage.by_day],
    }


@describes(LabelCoverage, _labels_document)
def _labels(coverage: LabelCoverage) -> Iterator[Part]:
    spread = coverage.spread
    if spread.longest is not None:
        yield Note(
            f"The captures that serve one row are apart by {duration_text(spread.median)} in the median, "
            f"{duration_text(spread.p95)} at the 95th percentile, {duration_text(spread.longest)} at most."
        )
    if coverage.torn is not None:
        yield Note(f"{coverage.torn:,} rows exceed the limit of their spread.", strong=coverage.torn > 0)
    reasons = [why for why in REASONS if any(why in cell.absent for cell in coverage.elements)]
    rows = [
        {
            "element": cell.element,
            "found": cell.found,
            "share": ShareBar(cell.share, enough=CONFIDENT),
            **{why: cell.absent.get(why, 0) for why in reasons},
            "lowest_confidence": cell.lowest_confidence,
            "mean": cell.mean_confidence,
            "median_age": duration_text(cell.age.median),
            "p95": duration_text(cell.age.p95),
            "oldest": duration_text(cell.age.longest),
            "runs": len(cell.runs),
            "of other tasks": cell.not_applicable or None,
        }
        for cell in coverage.elements
    ]
    yield Table(rows, most=None)
    yield _heat_map(coverage.by_day, "label rows")


def _heat_map(cells: Sequence[CoverageCell], rows: str) -> HeatMap:
    """A heat map with a row for each element and group, a column for each day."""
    by_row: dict[tuple[str, str | None], dict[str, CoverageCell]] = {}
    for cell in cells:
        if cell.day is not None:
            by_row.setdefault((cell.element, cell.group), {})[cell.day.isoformat()] = cell
    if any(group is not None for _, group in by_row):  # then a day without any contexts needs no row of its own
        by_row = {
            key: row for key, row in by_row.items() if key[1] is not None or any(cell.rows for cell in row.values())
        }
    return HeatMap(
        f"Each cell: share of {rows} with state · lowest confidence of the runs that serve them · median age (oldest).",
        sorted({cell.day.isoformat() for cell in cells if cell.day is not None}),
        {key: {day: _heat_cell(cell) for day, cell in row.items()} for key, row in by_row.items()},
    )


def _heat_cell(cell: CoverageCell) -> HeatCell:
    why = "".join(f", {rows} {reason}" for reason, rows in cell.absent.items())
    tooltip = f"{cell.found} of {cell.rows}{why}; served by {', '.join(cell.runs) or 'nothing'}"
    if not cell.found:
        return HeatCell(cell.share, cell.chief_reason or "", tooltip)
    confidence = "" if cell.lowest_confidence is None else f"{cell.lowest_confidence:.3g} · "
    age = f"{duration_text(cell.age.median)} ({duration_text(cell.age.longest)})"
    return HeatCell(cell.share, f"{confidence}{age}", tooltip)


def _poorly_covered(cells: Sequence[CoverageCell]) -> list[dict[str, Any]]:
    """Rows of the groups with the lowest share of contexts over all days; of no groups none."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for cell in cells:
        if cell.group is not None:
            rows, found = sums.get((cell.element, cell.group), (0, 0))
            sums[cell.element, cell.group] = rows + cell.rows, found + cell.found
    poor = sorted((found / rows, rows, key) for key, (rows, found) in sums.items() if found < rows)
    return [
        {"element": element, "group": group, "share": ShareBar(share), "missing": round(rows * (1 - share))}
        for share, rows, (element, group) in poor[:_MOST_POOR_GROUPS]
    ]
