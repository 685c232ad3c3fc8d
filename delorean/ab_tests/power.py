"""How many units a test needs, and what each of its looks can see."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def units_needed(drift: float, effect: float, mean: float, variance: float, shares: Sequence[float]) -> int:
    """Return the number of units of the test with which a relative effect has a drift.

    mean, variance: of one unit's metric
    shares: of the two cells, of the test's units

    >>> units_needed(2.8016, 0.1, 1.0, 1.0, (0.5, 0.5))
    3140
    """
    inverse = sum(1 / share for share in shares)
    return math.ceil((drift / (effect * mean)) ** 2 * variance * inverse)


def effect_found(drift: float, units: float, mean: float, variance: float, shares: Sequence[float]) -> float:
    """Return the relative effect that has a drift with a number of units."""
    return drift * math.sqrt(variance * sum(1 / share for share in shares) / units) / abs(mean)
