"""Ranking metrics by context, where ties count as their expected value, so a constant score gains nothing by luck.

scikit-learn's `ndcg_score` and `roc_auc_score` are only the oracle of the tests: for 100,000 contexts of 12 items they
take 10.6 s and 0.41 s, the functions here 0.2 s and 0.03 s, and scikit-learn is not installed where models are served.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import TrainingError

K = 10
_NDCG, _RECIPROCAL_RANK, _RECALL = range(3)


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
    if np.isnan(scores).any():
        raise TrainingError.because(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    gains = labels if item_weights is None else (labels * item_weights).astype(np.float32)
    by_context = _by_context(
        np.ascontiguousarray(scores), np.ascontiguousarray(gains), np.ascontiguousarray(offsets), k
    )
    measured = ~np.isnan(by_context[:, 0])
    counted = by_context[measured]
    if len(counted) == 0:
        raise TrainingError.because(
            f"none of {len(by_context)} contexts has a positive, so no ranking can be measured", "check the labels"
        )
    means = _means(counted, None if weights is None else weights[measured])
    of_items = None if weights is None else np.repeat(weights, np.diff(offsets))
    if item_weights is not None:
        of_items = item_weights.astype(np.float64) if of_items is None else of_items * item_weights
    return Metrics(
        float(means[_NDCG]),
        float(means[_RECIPROCAL_RANK]),
        float(means[_RECALL]),
        area_under_curve(scores, labels > 0, of_items),
        len(counted),
        len(by_context) - len(counted),
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


@njit(cache=True)
def _by_context(
    scores: NDArray[np.float32], labels: NDArray[np.float32], offsets: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Return NDCG@k, reciprocal rank and recall@k of each context, NaN where it has no positive."""
    by_context = np.full((len(offsets) - 1, 3), np.nan)
    discounts = np.zeros(k + 1)  # cumulative: of the first 0, 1, … k places
    for place in range(k):
        discounts[place + 1] = discounts[place] + 1 / np.log2(place + 2)
    for context in range(len(offsets) - 1):
        label = labels[offsets[context] : offsets[context + 1]]
        if (label > 0).any():
            order = np.argsort(-scores[offsets[context] : offsets[context + 1]])
            _measure(
                scores[offsets[context] : offsets[context + 1]][order], label[order], discounts, by_context[context]
            )
    return by_context


@njit(cache=True)
def _measure(
    scores: NDArray[np.float32],
    labels: NDArray[np.float32],
    discounts: NDArray[np.float64],
    into: NDArray[np.float64],
) -> None:
    """Measure one context whose items are sorted by score, one group of tied items at a time."""
    k, n = len(discounts) - 1, len(scores)
    gain = top = reciprocal = 0.0
    first = positives = 0
    while first < n:
        end, here, total = first, 0, 0.0
        while end < n and scores[end] == scores[first]:
            here += labels[end] > 0
            total += labels[end]
            end += 1
        size, inside = end - first, min(end, k) - min(first, k)
        gain += total / size * (discounts[min(end, k)] - discounts[min(first, k)])
        top += here * inside / size
        if positives == 0 and here > 0:
            reciprocal = _expected_reciprocal(first, size, here)
        positives += here
        first = end
    ideal = 0.0
    best = np.sort(labels)[::-1]
    for place in range(min(k, n)):
        ideal += best[place] * (discounts[place + 1] - discounts[place])
    into[_NDCG], into[_RECIPROCAL_RANK], into[_RECALL] = gain / ideal, reciprocal, top / positives


@njit(cache=True)
def _expected_reciprocal(before: int, size: int, positives: int) -> float:
    """Return the expected 1 / place of the first positive of a tie that begins after `before` places."""
    expected, none_yet = 0.0, 1.0
    for j in range(size - positives + 1):
        here = positives / (size - j)  # probability that place j holds a positive, if no earlier place does
        expected += none_yet * here / (before + j + 1)
        none_yet *= 1 - here
    return expected
