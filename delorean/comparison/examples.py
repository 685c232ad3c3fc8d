"""The contexts that two rankings order most differently, with the first items of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.comparison.result import ContextDifference, RankedItem
from delorean.ranking_data.ranking_data import RankingData
from schemas.tables import python_rows


def context_differences(
    part: RankingData,
    scores: tuple[NDArray[np.float32], NDArray[np.float32]],
    rows: NDArray[np.int64],
    overlap: NDArray[np.float64],
    difference: NDArray[np.float64],
    places: int,
) -> tuple[ContextDifference, ...]:
    """Describe some contexts.

    scores: of the candidate and of production
    rows: of the contexts
    overlap, difference: of all contexts, NaN where they cannot be measured
    """
    contexts = python_rows(part.contexts.take(rows))
    return tuple(
        ContextDifference(
            context,
            float(overlap[row]),
            None if np.isnan(difference[row]) else float(difference[row]),
            *(_first_items(part, each, int(row), places) for each in scores),
        )
        for row, context in zip(rows, contexts, strict=True)
    )


def lowest(values: NDArray[np.float64], number: int, below: float) -> NDArray[np.int64]:
    """Return the rows of the lowest values that are below a bound, in order; equal ones in the order of rows."""
    order = np.argsort(values, kind="stable")[:number]  # NaN comes last
    return order[values[order] < below]


def _first_items(part: RankingData, scores: NDArray[np.float32], row: int, places: int) -> tuple[RankedItem, ...]:
    start, end = int(part.offsets[row]), int(part.offsets[row + 1])
    order = start + np.argsort(-scores[start:end], kind="stable")[:places]
    items: list[dict[str, Any]] = python_rows(part.items.take(pa.array(order)))
    return tuple(
        RankedItem(item, float(scores[at]), float(part.labels[at])) for item, at in zip(items, order, strict=True)
    )
