"""Measures the scores of a part of ranking data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.metrics import Metrics, ranking_metrics
from delorean.ranking_data.ranking_data import RankingData

PartScores: TypeAlias = Callable[[RankingData], NDArray[np.float32]]
"""scores the items of a part"""


def measure(scores: NDArray[np.float32], part: RankingData) -> Metrics:
    """Measure how well scores rank the items of a part, with its weights.

    scores: (items,)
    """
    return ranking_metrics(scores, part.labels, part.offsets, weights=part.weights, item_weights=part.own_item_weights)
