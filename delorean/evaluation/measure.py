"""Measures the scores of a part of ranking data, and what each feature contributes to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.metrics import Metrics, ranking_metrics
from delorean.ranking_data.ranking_data import RankingData
from delorean.scoring import Scorer

_IMPORTANCE_CONTEXTS = 1_000


def measure(scores: NDArray[np.float32], part: RankingData) -> Metrics:
    """Measure how well scores rank the items of a part, with its weights.

    scores: (items,)
    """
    return ranking_metrics(scores, part.labels, part.offsets, weights=part.weights, item_weights=part.own_item_weights)


def permutation_importances(scorer: Scorer, part: RankingData, seed: int) -> dict[str, float]:
    """Return feature → NDCG@10 lost when its values are shuffled among items (Breiman 2001).

    At most 1,000 contexts that have positives are used.
    """
    random = np.random.default_rng(seed)
    with_positives = np.unique(np.repeat(np.arange(len(part)), np.diff(part.offsets))[part.positive])
    chosen = random.permutation(with_positives)[:_IMPORTANCE_CONTEXTS]
    sample = part.take(np.sort(chosen))

    def ndcg(features: NDArray[np.float32]) -> float:
        return measure(scorer.score(features), sample).ndcg_at_10

    unshuffled = ndcg(sample.features)
    importances = {}
    for column, name in enumerate(part.names):
        shuffled = sample.features.copy()
        shuffled[:, column] = random.permutation(shuffled[:, column])
        importances[name] = unshuffled - ndcg(shuffled)
    return importances
