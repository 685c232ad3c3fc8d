"""Boundaries of group-sequential tests by recursive numerical integration (Armitage, McPherson and Rowe 1969).

At look k the statistic Z_k is normal with mean drift · √I_k and variance 1, and Cov(Z_j, Z_k) = √(I_j / I_k) for j < k,
where I is the information, such as the number of units. The test stops at the first |Z_k| that reaches its boundary.
The density of Z_k among the tests that go on is integrated from look to look with Gauss–Legendre nodes (the notation
and the checks are those of Jennison and Turnbull 2000).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from delorean.ab_tests.plan_spec import Spending

Floats: TypeAlias = NDArray[np.float64]
_FARTHEST = 9.0  # standard deviations; beyond lies less than any spent probability
_LEAST_SPENT = 1e-13  # a smaller probability has no boundary: it is spent later
_NODES = 96  # at least; more where looks are so close that the density is steep


def spent(fractions: Sequence[float], alpha: float, spending: Spending) -> Floats:
    """Return how much of alpha is spent up to each fraction of the planned information (Lan and DeMets 1983).

    Each side of the test spends half of it.

    >>> spent([0.5, 1.0], 0.05, "obrien-fleming").round(5).tolist()
    [0.00305, 0.05]
    """
    time, side = np.clip(np.asarray(fractions, np.float64), 0, 1), alpha / 2
    if spending == "pocock":
        return 2 * side * np.log1p((np.e - 1) * time)
    with np.errstate(divide="ignore"):
        tail: Floats = 2 * norm.sf(norm.isf(side / 2) / np.sqrt(time))
    return 2 * tail


def boundaries(information: Sequence[float], cumulative: Sequence[float]) -> Floats:
    """Return the boundary of |Z| at each look that spends the given probability without an effect.

    information: of each look, increasing. At a look without new information the statistic is that of the look before:
        its boundary is the one that would have spent the probability of both there
    cumulative: the probability, of both sides, that is spent up to each look

    >>> boundaries([1, 2, 3, 4, 5], spent([0.2, 0.4, 0.6, 0.8, 1.0], 0.05, "obrien-fleming")).round(2).tolist()
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    return np.array(_boundaries(tuple(map(float, information)), tuple(map(float, cumulative))))


@lru_cache(maxsize=256)
def _boundaries(information: tuple[float, ...], cumulative: tuple[float, ...]) -> tuple[float, ...]:
    bounds: list[float] = []
    before, used_before = _Density(), 0.0  # up to the last look with new information, without it
    state, used = before, used_before
    for level, total in zip(information, cumulative, strict=True):
        if level > state.information:
            before, used_before = state, used
        increment = (total - used_before) / 2
        if min(increment, (total - used) / 2) < _LEAST_SPENT or level < state.information:
            bounds.append(np.inf)
            continue
        step = before.step(level)

        def excess(bound: float, step: _Step = step, increment: float = increment) -> float:
            return step.above(bound) - increment

        bounds.append(brentq(excess, 0.0, _FARTHEST, xtol=1e-10) if excess(_FARTHEST) < 0 else _FARTHEST)
        state, used = step.going_on(bounds[-1]), used_before + 2 * step.above(bounds[-1])
    return tuple(bounds)


def crossing_probabilities(
    bounds: Sequence[float], information: Sequence[float], drift: float = 0.0
) -> tuple[Floats, Floats]:
    """Return the probabilities of stopping at each look above the upper and below the lower boundary.

    bounds: of |Z|, not increasing where looks have the same information
    drift: mean of Z at information 1

    >>> above, below = crossing_probabilities([2.178, 2.178], [0.5, 1.0])  # Pocock 1977, two looks
    >>> round(float(above.sum() + below.sum()), 3)
    0.05
    """
    above, below = np.zeros(len(bounds)), np.zeros(len(bounds))
    before, state, first = _Density(drift), _Density(drift), 0
    for look, (bound, level) in enumerate(zip(bounds, information, strict=True)):
        if level > state.information:
            before, first = state, look
        if level <= before.information:
            continue
        step = before.step(level)
        # At a look without new information, only what lies between its boundary and the one before stops.
        above[look] = step.above(bound) - above[first:look].sum()
        below[look] = step.below(-bound) - below[first:look].sum()
        state = step.going_on(bound)
    return above, below


def drift_for(power: float, bounds: Sequence[float], information: Sequence[float]) -> float:
    """Return the drift with which the test stops above its upper boundary with a probability.

    >>> round(drift_for(0.9, [1.959964], [1.0]), 3)
    3.242
    """

    def lacking(drift: float) -> float:
        return float(crossing_probabilities(bounds, information, drift)[0].sum()) - power

    return float(brentq(lacking, 0.0, 20.0 / np.sqrt(max(information)), xtol=1e-8))


def stagewise(
    z: float, bounds: Sequence[float], information: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Return the median-unbiased estimate of the drift and its interval after a test stopped at its last look.

    Results are ordered by stage (Fairbanks and Madsen 1982; Tsiatis, Rosner and Mehta 1984): stopping above earlier is
    more extreme than later, and at one look a greater Z than a smaller one.

    z: at the last look
    bounds, information: of all looks up to that one
    """

    def tail(drift: float) -> float:
        """Probability of a result at least as far above, increasing in the drift."""
        above = crossing_probabilities([*bounds[:-1], z], information, drift)[0]
        return float(above.sum())

    scale = np.sqrt(information[-1])
    reach = (_FARTHEST + abs(z)) / np.sqrt(information[0])

    def solve(probability: float) -> float:
        return float(brentq(lambda drift: tail(drift) - probability, -reach, reach, xtol=1e-6 / scale))

    return solve(0.5), solve((1 - level) / 2), solve((1 + level) / 2)


@lru_cache(maxsize=64)
def _rule(nodes: int) -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(nodes)


class _Density:
    """Where the tests that go on are: nodes of Z with their probability mass; at first all of them at 0."""

    def __init__(
        self, drift: float = 0.0, information: float = 0.0, nodes: Floats | None = None, mass: Floats | None = None
    ) -> None:
        self.drift, self.information = drift, information
        self.scores = np.zeros(1) if nodes is None else nodes * np.sqrt(information)
        self.mass = np.ones(1) if mass is None else mass

    def step(self, information: float) -> _Step:
        """Go on to the next look."""
        return _Step(self, information)


class _Step:
    """The distribution of Z at a look, before tests stop there."""

    def __init__(self, before: _Density, information: float) -> None:
        self._before, self._information = before, information
        self._new = information - before.information
        self._means = before.scores + before.drift * self._new

    def above(self, bound: float) -> float:
        return float(self._before.mass @ norm.sf(self._standard(bound)))

    def below(self, bound: float) -> float:
        return float(self._before.mass @ norm.cdf(self._standard(bound)))

    def going_on(self, bound: float) -> _Density:
        """Keep the tests within the boundary."""
        drift, scale = self._before.drift, np.sqrt(self._information)
        end = min(bound, _FARTHEST + abs(drift) * scale)
        width = np.sqrt(self._new / self._information)  # of the density around each earlier value
        points, weights = _rule(max(_NODES, 32 * math.ceil(3 * end / width / 32)))
        nodes = points * end
        density = norm.pdf((nodes[:, np.newaxis] * scale - self._means) / np.sqrt(self._new)) @ self._before.mass
        return _Density(drift, self._information, nodes, density * weights * end / width)

    def _standard(self, bound: float) -> Floats:
        return np.asarray((bound * np.sqrt(self._information) - self._means) / np.sqrt(self._new), np.float64)
