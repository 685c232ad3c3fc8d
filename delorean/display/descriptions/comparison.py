"""Describes comparisons of features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from delorean.audit.comparison.result import ChangeStatus, FeatureChange, FeatureComparison
from delorean.display.description import describes
from delorean.display.parts import Part, ShareBar, Table

_ALWAYS_SHOWN = ("feature", "status", "items")


def document(comparison: FeatureComparison) -> dict[str, Any]:
    """The comparison's fields; an infinite number as the text "inf", for JSON has no number for it."""
    rows = [{name: _json_number(value) for name, value in row.items()} for row in comparison.rows]
    return {**comparison.summary, "features": rows}


def _json_number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@describes(FeatureComparison, document)
def parts(comparison: FeatureComparison) -> Iterator[Part]:
    """A table of the features, those with the most changed items first."""
    compared = max(1, comparison.compared_items)
    moved = sorted(comparison.features, key=lambda change: (change.status is ChangeStatus.EQUAL, -change.items))
    yield Table([_row(change, compared) for change in moved])


def _row(change: FeatureChange, compared: int) -> dict[str, Any]:
    """A table's row; measures that are 0 are left out, so that a column appears only where a feature needs it."""
    one_sided = change.status in (ChangeStatus.NEW, ChangeStatus.GONE)
    measures = {name: value or None for name, value in asdict(change).items() if name not in _ALWAYS_SHOWN}
    return {
        "feature": change.feature,
        "status": change.status,
        "items_changed": change.items,
        "share": ShareBar(None if one_sided else change.items / compared),
        **measures,
    }
