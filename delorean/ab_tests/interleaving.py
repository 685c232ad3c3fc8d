"""Merges two rankings into one, and says which of them earns the credit of each item.

Both methods are fair: a user who clicks without regard to the items gives neither ranking more credit, whatever places
such a user prefers, because the coins that decide between them are fair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

FIRST, SECOND, NEITHER = 0, 1, -1
Merged: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int8]]
"""The merged order, and for each place which ranking earns the item's credit: `FIRST`, `SECOND` or `NEITHER`."""


def team_draft(first: NDArray[Any], second: NDArray[Any], seed: int, k: int) -> Merged:
    """Merge by team draft (Radlinski, Kurup and Joachims 2008).

    In each round a coin decides which ranking picks first; each picks its best item that is still free, and earns its
    credit. An item that both would pick takes the next place without a round and earns none.

    first, second: items' numbers, the best first, each at most once
    seed: of the coins; the same seed gives the same result everywhere
    k: number of places; fewer if the rankings have fewer items

    >>> order, team = team_draft(np.array([3, 1, 2]), np.array([3, 2, 1]), seed=5, k=3)
    >>> order.tolist(), team.tolist()
    ([3, 1, 2], [-1, 0, 1])
    """
    rankings = (first.tolist(), second.tolist())
    coins = _coins(seed)
    order: list[int] = []
    team: list[int] = []
    taken: set[int] = set()
    places = [0, 0]
    while len(order) < k:
        best = [_next_free(rankings[ranker], places, ranker, taken) for ranker in (FIRST, SECOND)]
        if best == [None, None]:
            break
        if best[FIRST] == best[SECOND]:
            _pick(best[FIRST], NEITHER, order, team, taken)
            continue
        leader = next(coins)
        for ranker in (leader, 1 - leader):
            if len(order) < k:  # where one ranking has no more items, nothing competes with those of the other
                _pick(best[ranker], NEITHER if None in best else ranker, order, team, taken)
    return np.array(order, np.int64), np.array(team, np.int8)


def balanced(first: NDArray[Any], second: NDArray[Any], seed: int, k: int) -> Merged:
    """Merge by balanced interleaving (Joachims 2003), with credit that is not biased.

    One coin decides which ranking comes first; then the ranking of which less has been shown adds its next item. With
    Joachims' own credit, random clicks may prefer a ranking (Chapelle et al. 2012). Here an item is compared
    with the one that the other side of the coin would have shown at its place: the ranking that prefers it more than
    the other item earns its credit. The two lists are equally probable, so random clicks cancel out place by place;
    the aim is that of debiased balanced interleaving (Bi et al. 2022), the credit is our own.

    Arguments and result are those of `team_draft`.
    """
    rankings = (first.tolist(), second.tolist())
    coin = next(_coins(seed))
    shown = _balanced_list(rankings, coin, k)
    other = _balanced_list(rankings, 1 - coin, k)
    ranks = [{item: place for place, item in enumerate(ranking)} for ranking in rankings]

    def preference(item: int) -> int:
        """Return how many places higher the first ranking has an item; what a ranking lacks comes after its end."""
        return ranks[SECOND].get(item, len(rankings[SECOND])) - ranks[FIRST].get(item, len(rankings[FIRST]))

    team = [_sooner(preference(mine), preference(its)) for mine, its in zip(shown, other, strict=True)]
    return np.array(shown, np.int64), np.array(team, np.int8)


METHODS: Final[Mapping[str, Callable[[NDArray[Any], NDArray[Any], int, int], Merged]]] = {
    "team-draft": team_draft,
    "balanced": balanced,
}


def _balanced_list(rankings: tuple[Sequence[int], Sequence[int]], leader: int, k: int) -> list[int]:
    order: list[int] = []
    taken: set[int] = set()
    places = [0, 0]
    while len(order) < k and any(places[ranker] < len(rankings[ranker]) for ranker in (FIRST, SECOND)):
        ranker = leader if places[leader] <= places[1 - leader] else 1 - leader
        if places[ranker] >= len(rankings[ranker]):
            ranker = 1 - ranker
        item = rankings[ranker][places[ranker]]
        places[ranker] += 1
        if item not in taken:
            taken.add(item)
            order.append(item)
    return order


def _sooner(mine: int, its: int) -> int:
    return NEITHER if mine == its else FIRST if mine > its else SECOND


def _pick(item: int | None, ranker: int, order: list[int], team: list[int], taken: set[int]) -> None:
    """Add an item and who earns its credit; None: nothing."""
    if item is not None:
        order.append(item)
        team.append(ranker)
        taken.add(item)


def _next_free(ranking: Sequence[int], places: list[int], ranker: int, taken: set[int]) -> int | None:
    """Return a ranking's best item that is not taken, and remember how far it is; None: there is no other."""
    while places[ranker] < len(ranking) and ranking[places[ranker]] in taken:
        places[ranker] += 1
    return ranking[places[ranker]] if places[ranker] < len(ranking) else None


def _coins(seed: int) -> Iterator[int]:
    """Yield fair coins, 0 or 1, from a hash of the seed."""
    data, block = seed.to_bytes(16, "little", signed=True), 0
    while True:
        bits = xxhash.xxh64_intdigest(data, block)
        for bit in range(64):
            yield bits >> bit & 1
        block += 1
