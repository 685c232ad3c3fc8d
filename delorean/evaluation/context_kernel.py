"""The compiled loop over contexts: each context's ranking metrics, where ties count as their expected value.

scikit-learn's `ndcg_score` and `roc_auc_score` are only the oracle of the tests: for 100,000 contexts of 12 items they
take 10.6 s and 0.41 s, the functions here 0.2 s and 0.03 s, and scikit-learn is not installed where models are served.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

RECIPROCAL_RANK, AVERAGE_PRECISION, AREA = range(3)  # columns of the metrics of all places
NDCG, RECALL = range(2)  # columns of the metrics of the first places, for each of their numbers


@njit(cache=True)
def contexts_metrics(
    scores: NDArray[np.float32],
    gains: NDArray[np.float32],
    weights: NDArray[np.float64],
    offsets: NDArray[np.int64],
    at: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure each context. NaN where it has no positive, and its area also where it has no negative.

    scores, gains, weights: (items,), contexts end to end; a gain above 0 is a positive. The weights count in the area
    at: ascending numbers of first places

    Returns (contexts, 3) of all places and (contexts, len(at), 2) of the first places.
    """
    contexts = len(offsets) - 1
    whole = np.full((contexts, 3), np.nan)
    first = np.full((contexts, len(at), 2), np.nan)
    deepest = at[-1]
    discounts = np.zeros(deepest + 1)  # cumulative: of the first 0, 1, … places
    for place in range(deepest):
        discounts[place + 1] = discounts[place] + 1 / np.log2(place + 2)
    for context in range(contexts):
        start, end = offsets[context], offsets[context + 1]
        if (gains[start:end] > 0).any():
            order = np.argsort(-scores[start:end])
            ordered = (scores[start:end][order], gains[start:end][order], weights[start:end][order])
            _measure_first_places(ordered, at, discounts, first[context])
            _measure_all_places(ordered, whole[context])
    return whole, first


@njit(cache=True)
def _measure_first_places(
    ordered: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]],
    at: NDArray[np.int64],
    discounts: NDArray[np.float64],
    into: NDArray[np.float64],
) -> None:
    """Measure NDCG and recall of a context whose items are sorted by score, one group of tied items at a time."""
    scores, gains, _ = ordered
    n = len(scores)
    into[:] = 0
    first = positives = 0
    while first < n:
        end, hits, total = first, 0, 0.0
        while end < n and scores[end] == scores[first]:
            hits += gains[end] > 0
            total += gains[end]
            end += 1
        size = end - first
        for i, k in enumerate(at):
            into[i, NDCG] += total / size * (discounts[min(end, k)] - discounts[min(first, k)])
            into[i, RECALL] += hits * (min(end, k) - min(first, k)) / size
        positives += hits
        first = end
    best = np.sort(gains)[::-1]
    ideal, place = 0.0, 0
    for i, k in enumerate(at):
        while place < min(k, n):
            ideal += best[place] * (discounts[place + 1] - discounts[place])
            place += 1
        into[i, NDCG] /= ideal
        into[i, RECALL] /= positives


@njit(cache=True)
def _measure_all_places(
    ordered: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]], into: NDArray[np.float64]
) -> None:
    """Measure reciprocal rank, average precision and area of a context whose items are sorted by score."""
    scores, gains, weights = ordered
    n = len(scores)
    reciprocal = precision = wins = above = below = 0.0  # above, below: weight of the positives and negatives before
    first = positives = 0
    while first < n:
        end, hits, good, bad = first, 0, 0.0, 0.0
        while end < n and scores[end] == scores[first]:
            if gains[end] > 0:
                hits += 1
                good += weights[end]
            else:
                bad += weights[end]
            end += 1
        if positives == 0 and hits > 0:
            reciprocal = _expected_reciprocal(first, end - first, hits)
        if hits > 0:
            precision += _expected_precision(first, end - first, positives, hits)
        wins += bad * (above + good / 2)
        above, below, positives = above + good, below + bad, positives + hits
        first = end
    into[RECIPROCAL_RANK], into[AVERAGE_PRECISION] = reciprocal, precision / positives
    if above * below > 0:
        into[AREA] = wins / (above * below)


@njit(cache=True)
def _expected_reciprocal(before: int, size: int, positives: int) -> float:
    """Return the expected 1 / place of the first positive of a tie that begins after `before` places."""
    expected, none_yet = 0.0, 1.0
    for j in range(size - positives + 1):
        here = positives / (size - j)  # probability that place j holds a positive, if no earlier place does
        expected += none_yet * here / (before + j + 1)
        none_yet *= 1 - here
    return expected


@njit(cache=True)
def _expected_precision(before: int, size: int, positives_before: int, positives: int) -> float:
    """Return the expected sum, over the positives of a tie, of the precision at their places."""
    expected = 0.0
    for j in range(size):  # others of the tie that stand before, if this place holds a positive
        others = j * (positives - 1) / (size - 1) if size > 1 else 0.0
        expected += positives / size * (positives_before + others + 1) / (before + j + 1)
    return expected
