"""How many units a test needs, and what each of its looks can see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from delorean.ab_tests.designs import bounds_at
from delorean.ab_tests.plan_spec import PlanSpec
from delorean.ab_tests.sequential import Floats, drift_for

_MOST_LOOKS = 60  # of which the power of a design with daily looks is computed: more looks only add power


@dataclass(frozen=True)
class PlannedBounds:
    """A design at evenly spread looks.

    fractions: of the planned information
    bounds: of |Z|
    drift: the effect in standard errors at the end, with which the test has its power
    inflation: of the number of units, over that of one look at the end
    """

    fractions: Floats
    bounds: Floats
    drift: float
    inflation: float


def planned_bounds(plan: PlanSpec, alpha: float, days: int = 14) -> PlannedBounds:
    """Return a plan's looks. days: number of looks of the always-valid design.

    >>> round(planned_bounds(PlanSpec(), 0.05).inflation, 3)
    1.025
    """
    counts = {"group-sequential": plan.looks, "fixed": 1, "always-valid": max(1, min(days, _MOST_LOOKS))}
    count = counts[plan.design]
    fractions = np.arange(1, count + 1) / count
    bounds = bounds_at(plan.design, plan.spending, alpha, fractions.tolist(), fractions.tolist(), last=True)
    drift = drift_for(plan.power, bounds.tolist(), fractions.tolist())
    once = float(norm.isf(alpha / 2) + norm.ppf(plan.power))
    return PlannedBounds(fractions, bounds, drift, (drift / once) ** 2)


def units_needed(
    drift: float, effect: float, mean: float, variances: tuple[float, float], shares: tuple[float, float]
) -> int:
    """Return the number of units of the test with which a relative effect has a drift.

    mean: of the control
    variances: of one unit of the control, and of the candidate
    shares: of the two cells, of the test's units

    >>> units_needed(2.8016, 0.1, 1.0, (1.0, 1.0), (0.5, 0.5))
    3140
    """
    total = sum(variance / share for variance, share in zip(variances, shares, strict=True))
    return math.ceil((drift / (effect * mean)) ** 2 * total)


def with_effect(variance: float, effect: float) -> tuple[float, float]:
    """Return the variances of the control and of a candidate whose values are all larger by a relative effect."""
    return variance, variance * (1 + effect) ** 2


def effect_found(drift: float, units: float, mean: float, variance: float, shares: tuple[float, float]) -> float:
    """Return the relative effect that has a drift with a number of units; infinity where none has.

    >>> effect = effect_found(2.8016, 3140, 1.0, 1.0, (0.5, 0.5))
    >>> units_needed(2.8016, effect, 1.0, with_effect(1.0, effect), (0.5, 0.5))
    3140
    """
    # effect² · mean² · units = drift² · variance · (1 / share of the control + (1 + effect)² / share of the candidate)
    of_control, of_candidate = (1 / share for share in shares)
    square = units * mean**2 / (drift**2 * variance) - of_candidate
    if square <= 0:
        return math.inf
    return (of_candidate + math.sqrt(of_candidate**2 + square * (of_control + of_candidate))) / square
