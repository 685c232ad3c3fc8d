"""Ranking data from lists of items, for tests of what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData

START = datetime(2026, 1, 1, tzinfo=UTC)


def ranking_data(
    contexts: Sequence[Sequence[float]],
    *,
    weights: Sequence[float] | None = None,
    item_weights: Sequence[float] | None = None,
    features: NDArray[np.float32] | None = None,
    **variables: Sequence[object],
) -> RankingData:
    """Build contexts from the labels of their items; a context's time is its number in hours."""
    labels = np.array([label for context in contexts for label in context], np.float32)
    times = [START + timedelta(hours=i) for i in range(len(contexts))]
    columns = {name: pa.array(values) for name, values in variables.items()}
    table = pa.table({**columns, "time": pa.array(times, pa.timestamp("us", "UTC"))})
    matrix = np.zeros((len(labels), 1), np.float32) if features is None else features
    return RankingData(
        table,
        pa.table({"video_id": np.arange(len(labels))}),
        np.cumsum([0, *map(len, contexts)]),
        labels,
        matrix,
        tuple(f"feature_{i}" for i in range(matrix.shape[1])),
        None if weights is None else np.array(weights, np.float64),
        own_item_weights=None if item_weights is None else np.array(item_weights, np.float32),
    )
