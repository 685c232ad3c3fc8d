"""How alike two rankings of the same items are: rank-biased overlap, Kendall's τ-b, and the first places.

scipy's `kendalltau` is only the oracle of the tests: for 2,000 contexts of 50 items it takes 1 s, the functions here
30 ms for all measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

PERSISTENCE = 0.9


@dataclass(frozen=True)
class RankAgreement:
    """How alike two rankings of each context are.

    overlap: (contexts,) rank-biased overlap in [0, 1], NaN for a context without items
    tau: (contexts,) Kendall's τ-b in [−1, 1], NaN where one side gives all items the same score
    changed: (contexts,) share of the first places whose items are not among the other ranking's first places
    first_changed: (contexts,) whether another item is first
    same: (contexts,) whether both order all items alike, ties included
    """

    overlap: NDArray[np.float64]
    tau: NDArray[np.float64]
    changed: NDArray[np.float64]
    first_changed: NDArray[np.bool_]
    same: NDArray[np.bool_]


def rank_agreement(
    scores: NDArray[np.float32],
    others: NDArray[np.float32],
    offsets: NDArray[np.int64],
    places: int = 10,
    persistence: float = PERSISTENCE,
) -> RankAgreement:
    """Compare two rankings of each context's items.

    scores, others: (items,) without NaN, the greatest first
    offsets: (contexts + 1,) where each context's items start and end
    places: number of first places that are compared; items of equal score stand in the order of the data, as serving
        ranks them
    persistence: of the rank-biased overlap (Webber, Moffat and Zobel 2010): the probability of looking at the next
        place; with 0.9, the first 10 places have 86 % of the weight

    The overlap is extrapolated beyond the last place, where both rankings have the same items. Items of equal score all
    stand at the first place of their group, and the agreement at a depth counts them all there, as Webber et al. do.

    >>> agreement = rank_agreement(np.float32([3, 2, 1]), np.float32([3, 1, 2]), np.array([0, 3]))
    >>> round(float(agreement.overlap[0]), 4), round(float(agreement.tau[0]), 4), agreement.changed.tolist()
    (0.955, 0.3333, [0.0])
    """
    result = np.empty((len(offsets) - 1, 5))
    _compare(
        np.ascontiguousarray(scores, np.float32),
        np.ascontiguousarray(others, np.float32),
        np.ascontiguousarray(offsets, np.int64),
        places,
        persistence,
        result,
    )
    overlap, tau, changed, first, same = result.T
    return RankAgreement(overlap, tau, changed, first > 0, same > 0)


@njit(cache=True)
def _compare(
    scores: NDArray[np.float32],
    others: NDArray[np.float32],
    offsets: NDArray[np.int64],
    places: int,
    persistence: float,
    into: NDArray[np.float64],
) -> None:
    for context in range(len(offsets) - 1):
        one, other = scores[offsets[context] : offsets[context + 1]], others[offsets[context] : offsets[context + 1]]
        n = len(one)
        if n == 0:
            into[context] = (np.nan, np.nan, 0.0, 0.0, 1.0)
            continue
        order, other_order = np.argsort(-one, kind="mergesort"), np.argsort(-other, kind="mergesort")
        ranks, other_ranks = _ranks(one, order), _ranks(other, other_order)
        first = min(places, n)
        into[context, 0] = _overlap(ranks, other_ranks, persistence)
        into[context, 1] = _tau(ranks, other_ranks)
        into[context, 2] = 1 - _shared(order[:first], other_order[:first], n) / first
        into[context, 3] = order[0] != other_order[0]
        into[context, 4] = (ranks == other_ranks).all()


@njit(cache=True)
def _ranks(scores: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each item's place from 0; items of equal score all get the first place of their group."""
    ranks = np.empty(len(order), np.int64)
    place = 0
    for i in range(len(order)):
        if i and scores[order[i]] != scores[order[i - 1]]:
            place = i
        ranks[order[i]] = place
    return ranks


@njit(cache=True)
def _shared(one: NDArray[np.int64], other: NDArray[np.int64], n: int) -> int:
    inside = np.zeros(n, np.bool_)
    inside[one] = True
    return int(inside[other].sum())


@njit(cache=True)
def _overlap(ranks: NDArray[np.int64], others: NDArray[np.int64], persistence: float) -> float:
    """Return the extrapolated rank-biased overlap of two rankings of the same items."""
    n = len(ranks)
    sizes, shared = np.zeros(n), np.zeros(n)
    for i in range(n):
        sizes[ranks[i]] += 1
        sizes[others[i]] += 1
        shared[max(ranks[i], others[i])] += 1
    total = in_either = in_both = 0.0
    weight = 1.0
    for depth in range(n):
        in_either += sizes[depth]
        in_both += shared[depth]
        total += weight * 2 * in_both / in_either
        weight *= persistence
    return (1 - persistence) * total + weight  # at the last place, and so beyond it, all items are shared


@njit(cache=True)
def _tau(ranks: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Return Kendall's τ-b, by sorting (Knight 1966): n log n steps."""
    n = len(ranks)
    by_other = np.argsort(others, kind="mergesort")
    order = by_other[np.argsort(ranks[by_other], kind="mergesort")]  # by rank, then by the other rank
    first, second = ranks[order], others[order]
    pairs = n * (n - 1) // 2
    tied = _tied_pairs(first)
    tied_both = _tied_pairs(first * n + second)
    discordant, sorted_second = _inversions(second)
    tied_other = _tied_pairs(sorted_second)
    if tied == pairs or tied_other == pairs:
        return np.nan
    difference = pairs - tied - tied_other + tied_both - 2 * discordant
    return float(difference / np.sqrt(float(pairs - tied)) / np.sqrt(float(pairs - tied_other)))


@njit(cache=True)
def _tied_pairs(ordered: NDArray[np.int64]) -> int:
    """Count the pairs of equal values in an array whose equal values are neighbours."""
    pairs = run = 0
    for i in range(1, len(ordered)):
        run = run + 1 if ordered[i] == ordered[i - 1] else 0
        pairs += run
    return pairs


@njit(cache=True)
def _inversions(values: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Count the pairs in descending order by merging runs of doubled length, and return the sorted values too."""
    n, width, count = len(values), 1, 0
    source, target = values.copy(), np.empty_like(values)
    while width < n:
        for start in range(0, n, 2 * width):
            middle, end = min(start + width, n), min(start + 2 * width, n)
            left, right = start, middle
            for place in range(start, end):
                if right == end or (left < middle and source[left] <= source[right]):
                    target[place] = source[left]
                    left += 1
                else:
                    target[place] = source[right]
                    count += middle - left
                    right += 1
        source, target = target, source
        width *= 2
    return count, source
