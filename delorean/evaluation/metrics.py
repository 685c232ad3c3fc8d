"""Ranking metrics averaged over contexts; ties count as their expected value, so a constant score gains no luck."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.by_context import measure_arrays
from schemas.errors import TrainingError

K = 10


class Metrics(msgspec.Struct, frozen=True, rename={"ndcg_at_10": "ndcg@10", "recall_at_10": "recall@10"}):
    """How well scores rank. Items of equal score count as if in random order: each metric is its expected value.

    As plain fields (`msgspec.to_builtins`) the metrics have their usual names, "ndcg@10" and "recall@10".

    ndcg_at_10: mean over contexts of DCG / ideal DCG of the first 10 places, gain = label, discount = 1 / log2(place +
        1) (Järvelin and Kekäläinen 2002); within ties the mean gain (McSherry and Najork 2008)
    mrr: mean over contexts of 1 / place of the first positive (Voorhees 1999), among all the context's items
    recall_at_10: mean over contexts of the share of its positives that stand in the first 10 places
    auc: probability that a positive scores higher than a negative, over all items of all contexts together, ties
        counting half (Mann and Whitney 1947; Hanley and McNeil 1982); None without both
    contexts: contexts averaged over: those with a positive
    without_positives: contexts left out because they have none
    """

    ndcg_at_10: float
    mrr: float
    recall_at_10: float
    auc: float | None
    contexts: int
    without_positives: int


def ranking_metrics(
    scores: NDArray[np.float32],
    labels: NDArray[np.float32],
    offsets: NDArray[np.int64],
    k: int = K,
    *,
    weights: NDArray[np.float64] | None = None,
    item_weights: NDArray[np.float32] | None = None,
) -> Metrics:
    """Measure how well scores rank each context's items.

    scores, labels: (items,), contexts end to end; a label above 0 is a positive
    offsets: (contexts + 1,) where each context's items start and end
    weights: (contexts,) of each context in the means, and of its items in the AUC; None: all equal
    item_weights: (items,) multiply the gains, and count in the AUC; an item of weight 0 is no positive. None: all 1

    >>> ranking_metrics(np.float32([0.9, 0.1, 0.5]), np.float32([0, 1, 0]), np.array([0, 3])).mrr
    0.3333333333333333

    Raises TrainingError for scores that are NaN, or when no context has a positive.
    """
    measured = measure_arrays(scores, labels, offsets, [k], item_weights)
    names = (f"ndcg@{k}", "mrr", f"recall@{k}")
    counts = measured.positives > 0
    if not counts.any():
        raise TrainingError.because(
            f"none of {len(counts)} contexts has a positive, so no ranking can be measured", "check the labels"
        )
    columns = np.stack([measured[name][counts] for name in names], axis=1)
    means = _means(columns, None if weights is None else weights[counts])
    of_items = None if weights is None else np.repeat(weights, np.diff(offsets))
    if item_weights is not None:
        of_items = item_weights.astype(np.float64) if of_items is None else of_items * item_weights
    return Metrics(
        float(means[0]),
        float(means[1]),
        float(means[2]),
        area_under_curve(scores, labels > 0, of_items),
        int(counts.sum()),
        int((~counts).sum()),
    )


def _means(counted: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if weights is not None and not weights.sum() > 0:
        raise TrainingError.because("all contexts with a positive have weight 0, so no ranking can be measured")
    means: NDArray[np.float64] = np.average(counted, axis=0, weights=weights)
    return means


def area_under_curve(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float | None:
    """Return the area under the ROC curve, ties counting half; None without positives or without negatives.

    weights: of the items; a pair counts with the product of both weights. None: all equal
    """
    if weights is not None:
        return _weighted_area(scores, positive, weights)
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    if len(above) == 0 or len(below) == 0:
        return None
    wins = np.searchsorted(below, above, side="left").sum() + np.searchsorted(below, above, side="right").sum()
    return float(wins / 2 / len(above) / len(below))


def _weighted_area(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> float | None:
    values, codes = np.unique(scores, return_inverse=True)
    above, below = (
        np.bincount(codes[chosen], weights=weights[chosen], minlength=len(values)) for chosen in (positive, ~positive)
    )
    pairs = above.sum() * below.sum()
    if not pairs > 0:
        return None
    return float((above * (np.cumsum(below) - below / 2)).sum() / pairs)
