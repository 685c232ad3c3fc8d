"""The designs of tests: by how many standard errors a difference must exceed 0 at each look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from delorean.ab_tests.plan_spec import Design, Spending
from delorean.ab_tests.sequential import Floats, boundaries, spent


def bounds_at(
    design: Design,
    spending: Spending,
    alpha: float,
    fractions: Sequence[float],
    information: Sequence[float],
    *,
    last: bool,
) -> Floats:
    """Return the boundary of |Z| at each look so far.

    fractions: of the planned information, by which alpha is spent
    information: of each look in any unit, by which looks are correlated
    last: whether the last of them ends the test: then all of alpha is spent
    """
    if design == "always-valid":
        return always_valid(fractions, alpha)
    if design == "fixed":
        ends = [np.inf] * (len(fractions) - 1) + [float(norm.isf(alpha / 2)) if last else np.inf]
        return np.array(ends)
    cumulative = spent(fractions, alpha, spending)
    if last:
        cumulative[-1] = alpha
    return boundaries(information, np.maximum.accumulate(cumulative).tolist())


def always_valid(fractions: Sequence[float], alpha: float) -> Floats:
    """Return the boundary of |Z| that holds at all moments together (Robbins 1970; Johari et al. 2015).

    It is that of a sequential test with a normal mixture of effects, and for means of any distribution that of an
    asymptotic confidence sequence (Waudby-Smith et al. 2021). The mixture makes it narrowest at the planned end; the
    error is kept whatever the plan was.

    fractions: of the planned information

    >>> always_valid([0.1, 1.0], 0.05).round(2).tolist()
    [3.82, 3.04]
    """
    shares = np.asarray(fractions, np.float64)
    mixture = _narrowest_mixture(alpha)
    with np.errstate(divide="ignore"):
        bound: Floats = np.sqrt((1 + mixture / shares) * (np.log1p(shares / mixture) - 2 * math.log(alpha)))
    return bound


def _narrowest_mixture(alpha: float) -> float:
    """Return the mixture's precision that makes the boundary at information 1 least."""
    wanted = -2 * math.log(alpha)
    return 1 / float(brentq(lambda inverse: math.log1p(inverse) + wanted - inverse, 1e-9, 1e6))
