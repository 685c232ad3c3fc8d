"""The order in which a request's candidates are shown: by score, explored, or interleaved from two rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from delorean.ab_tests.interleaving import METHODS, NEITHER

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class ShownOrder:
    """Candidates in the order in which they are shown.

    rows: (shown,) positions among the request's candidates
    ranker: (shown,) which of the rankings' scores and features belong to each, 0 or 1
    propensities: (shown,) probability of each to be shown at its place; None where unknown
    team: (shown,) of an interleaved ranking: the ranker that earns the item's credit, −1: neither
    seed: of a random order
    """

    rows: NDArray[np.int64]
    ranker: NDArray[np.int8]
    propensities: NDArray[np.float64] | None
    team: NDArray[np.int8] | None = None
    seed: int | None = None

    def scores(self, rankings: Sequence[Scores]) -> Scores:
        """Return the score of each shown item, by its ranker."""
        if len(rankings) == 1:
            return rankings[0][self.rows]
        return np.stack(rankings)[self.ranker, self.rows]


def by_score(scores: Scores, k: int | None) -> ShownOrder:
    """Show the best first; equal scores in the order of the request. k: number of places; None: all."""
    rows = best_first(scores)[:k]
    return ShownOrder(rows, np.zeros(len(rows), np.int8), np.ones(len(rows)))


def explored(scores: Scores, k: int | None, probability: float, seed: int) -> ShownOrder:
    """Show the best first, or with a probability the first k places in an order drawn uniformly.

    The propensity of an item at a place is then (1 − probability), if its score puts it there, plus probability / k.

    >>> explored(np.array([1, 2, 3], np.float32), 2, 0.5, seed=1).propensities.tolist()
    [0.75, 0.75]
    """
    rows = best_first(scores)[:k]
    random = np.random.Generator(np.random.PCG64(seed))
    shuffled = random.random() < probability
    shown = rows[random.permutation(len(rows))] if shuffled else rows
    propensities = probability / len(rows) + (1 - probability) * (shown == rows)
    return ShownOrder(shown, np.zeros(len(rows), np.int8), propensities, seed=seed)


def interleaved(first: Scores, second: Scores, k: int | None, method: str, seed: int) -> ShownOrder:
    """Merge two rankings of the same candidates by a method of `delorean.ab_tests.interleaving`."""
    places = len(first) if k is None else min(k, len(first))
    rows, team = METHODS[method](best_first(first), best_first(second), seed, places)
    return ShownOrder(rows, np.where(team == NEITHER, 0, team).astype(np.int8), None, team, seed)


def best_first(scores: Scores) -> NDArray[np.int64]:
    """Return positions with the greatest scores first; equal ones in the order of the request."""
    return np.argsort(-scores, kind="stable")


def seed_of(test: str, seed: int, request_id: str) -> int:
    """Return the seed of a request's order: at least 0 and below 2⁶³, the same wherever the request is repeated."""
    return xxhash.xxh3_64_intdigest(f"{test}:{seed}:{request_id}".encode()) >> 1
