"""One candidate against the control, at all looks so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import norm

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.designs import bounds_at
from delorean.ab_tests.effects import change
from delorean.ab_tests.looks import Look
from delorean.ab_tests.moments import Moments
from delorean.ab_tests.result import Adjusted, CandidateResult, MetricAtLook, MetricResult
from delorean.ab_tests.sequential import Floats, stagewise
from delorean.ab_tests.verdict import judge

FEWEST_UNITS = 30
"""Units of a cell below which its mean is not taken as normal, and a look has no boundary."""
_UNITS_WITHOUT_PLAN = 10_000  # for the always-valid design: where its intervals are narrowest


def candidate_result(
    test: AbTest, cell: str, candidates: int, moments: Mapping[str, Moments], looks: Sequence[Look]
) -> CandidateResult:
    """Judge a candidate: at the first look at which the test ends, else at the last so far.

    candidates: number of them, among which alpha is divided
    moments: of each metric, (cells, looks)
    """
    numbers = list(test.cells).index(test.control), list(test.cells).index(cell)
    guardrails = max(1, len(test.metrics) - 1)
    share = test.cells[test.control].share + test.cells[cell].share
    metrics: list[MetricResult] = []
    for place, (name, spec) in enumerate(test.metrics.items()):
        alpha = test.plan.alpha / candidates / (1 if place == 0 else guardrails)
        control, own = (moments[name][number] for number in numbers)
        at_looks = _at_looks(test, alpha, share, control, own, looks)
        margin = test.plan.effect if spec.margin is None else spec.margin
        metrics.append(MetricResult(name, place == 0, spec.better, margin, at_looks))
    for look in range(len(looks)):
        futility = _futility(test, metrics[0], look) if test.plan.futility else None
        verdict, reasons = judge(metrics, look, last=_ends(test, metrics[0], looks, look), futility=futility)
        if verdict.ends:
            break
    ends = _ends(test, metrics[0], looks, look)
    adjusted = _adjusted(test, metrics[0], look, 1 - test.plan.alpha / candidates, ends=ends)
    return CandidateResult(cell, tuple(metrics), verdict, reasons, looks[look].number, adjusted)


def _at_looks(
    test: AbTest, alpha: float, share: float, control: Moments, candidate: Moments, looks: Sequence[Look]
) -> tuple[MetricAtLook, ...]:
    """Return a metric at each look, with its boundary and its repeated interval (Jennison and Turnbull 1989)."""
    units = control.count + candidate.count
    enough = np.minimum(control.count, candidate.count) >= FEWEST_UNITS
    fractions = _fractions(test, share, units, looks)
    usable = np.flatnonzero(enough)
    bounds: Floats = np.full(len(looks), np.inf)
    if len(usable):
        bounds[usable] = bounds_at(
            test.plan.design,
            test.plan.spending,
            alpha,
            fractions[usable].tolist(),
            units[usable].tolist(),
            last=looks[usable[-1]].last,
        )
    compared = change(control, candidate)
    low, high = compared.interval(bounds)
    z, relative = compared.z, compared.relative
    return tuple(
        MetricAtLook(
            look.number,
            look.at,
            int(units[i]),
            float(fractions[i]),
            _finite(bounds[i]),
            _finite(z[i]),
            _finite(compared.control[i]),
            _finite(compared.candidate[i]),
            _finite(relative[i]),
            _finite(low[i]) if np.isfinite(bounds[i]) else None,
            _finite(high[i]) if np.isfinite(bounds[i]) else None,
            float(compared.explained[i]) if enough[i] else 0.0,
            _finite(compared.relative_error[i]),
        )
        for i, look in enumerate(looks)
    )


def _fractions(test: AbTest, share: float, units: Floats, looks: Sequence[Look]) -> Floats:
    """Return the fraction of the planned information at each look, by which alpha is spent.

    Where the plan states its number of units, it is the observed share of them; else the share of the time.

    share: of the test's units that the two cells have
    """
    if test.plan.units is not None:
        return units / (test.plan.units * share)
    if test.plan.design == "always-valid":
        return units / _UNITS_WITHOUT_PLAN
    return np.array([look.share for look in looks])


def _ends(test: AbTest, deciding: MetricResult, looks: Sequence[Look], look: int) -> bool:
    """Whether no later look can change the result: it is the last, or all of alpha is spent."""
    return looks[look].last or (test.plan.design == "group-sequential" and deciding.looks[look].fraction >= 1)


def _futility(test: AbTest, metric: MetricResult, look: int) -> str | None:
    """Say so if the planned effect is unlikely to be found: the conditional power at the last look is too small."""
    at = metric.looks[look]
    if at.z is None or at.error is None or not 0 < at.fraction < 1:
        return None
    sign = 1 if metric.better == "higher" else -1
    final = float(norm.isf(test.plan.alpha / 2))
    drift = test.plan.effect / (at.error * math.sqrt(at.fraction))
    mean = sign * at.z * math.sqrt(at.fraction) + drift * (1 - at.fraction)
    power = float(norm.sf((final - mean) / math.sqrt(1 - at.fraction)))
    if power >= 1 - test.plan.power:
        return None
    return f"Even with the planned effect, the chance to find it by the end is {power:.1%}."


def _adjusted(test: AbTest, metric: MetricResult, look: int, level: float, *, ends: bool) -> Adjusted | None:
    """Return the estimate without the bias of stopping early, where a group-sequential test has stopped or ended."""
    if test.plan.design != "group-sequential":
        return None
    at = next((i for i in range(look + 1) if metric.looks[i].crosses), look if ends else None)
    if at is None or (mine := metric.looks[at]).bound is None or mine.z is None or mine.error is None:
        return None
    bounded = [each for each in metric.looks[: at + 1] if each.bound is not None]
    # Of looks at the same units the last one's boundary is that of all.
    usable = [each for each, later in pairwise(bounded) if later.units > each.units] + bounded[-1:]
    information = [each.units / mine.units for each in usable]
    value, low, high = stagewise(mine.z, [each.bound or math.inf for each in usable], information, level)
    return Adjusted(mine.look, value * mine.error, low * mine.error, high * mine.error)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
