"""The relative change of a metric between two cells: delta method, CUPED, and intervals that agree with the test.

A metric is a ratio of two means over units, value / denominator; the denominator of a plain mean is 1 for each unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.ab_tests.moments import DENOMINATOR, PAST_DENOMINATOR, PAST_VALUE, VALUE, Moments

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A metric in two cells. All arrays have the shape of the moments' groups.

    control, candidate: the means, adjusted by what was known before the first exposure
    variances: of the two means, (2, …)
    explained: the share of the variance that the adjustment removes
    """

    control: Floats
    candidate: Floats
    variances: Floats
    explained: Floats

    @property
    def z(self) -> Floats:
        """The difference of the means in standard errors; NaN where it has none."""
        error = np.sqrt(self.variances.sum(axis=0))
        return _divided(self.candidate - self.control, error, error > 0)

    @property
    def relative(self) -> Floats:
        """The relative change; NaN where the control's mean is not above 0."""
        return _divided(self.candidate, self.control, self.control > 0) - 1

    @property
    def relative_error(self) -> Floats:
        """The standard error of the difference, relative to the control's mean: `relative` is z times it."""
        return _divided(np.sqrt(self.variances.sum(axis=0)), self.control, self.control > 0)

    def interval(self, bound: Floats | float) -> tuple[Floats, Floats]:
        """Return the relative changes that are not rejected where |Z| stays below a bound (Fieller 1954).

        It excludes 0 exactly where |Z| reaches the bound. NaN where the control's mean is itself too uncertain.
        """
        bound = np.minimum(bound, 1e6)
        variance_control, variance_candidate = self.variances
        a = self.control**2 - bound**2 * variance_control
        b = self.control * self.candidate
        c = self.candidate**2 - bound**2 * variance_candidate
        root = np.sqrt(np.maximum(b * b - a * c, 0.0))
        usable = (a > 0) & (self.control > 0)
        safe = np.where(usable, a, 1.0)
        low, high = (np.where(usable, (b + sign * root) / safe - 1, np.nan) for sign in (-1, 1))
        return low, high


def change(control: Moments, candidate: Moments) -> Change:
    """Compare a metric of two cells.

    The adjustment (CUPED, Deng et al. 2013) subtracts θ times the metric before the first exposure, with θ from both
    cells together. Variances of ratios are those of their linear approximation (delta method, Deng et al. 2018).
    """
    theta = _coefficient(control + candidate)
    together = _ratio(control + candidate, PAST_VALUE, PAST_DENOMINATOR)
    means, variances, raw = [], [], []
    for cell in (control, candidate):
        past = _ratio(cell, PAST_VALUE, PAST_DENOMINATOR)
        own, of_past, shared = _variances(cell)
        means.append(_ratio(cell, VALUE, DENOMINATOR) - theta * (past - together))
        variances.append(np.maximum(own + theta**2 * of_past - 2 * theta * shared, 0.0) / np.maximum(cell.count, 1))
        raw.append(own / np.maximum(cell.count, 1))
    before, after = np.sum(raw, axis=0), np.sum(variances, axis=0)
    explained = 1 - np.divide(after, before, out=np.ones_like(before), where=before > 0)
    return Change(means[0], means[1], np.stack(variances), explained)


def variance_of_one(units: Moments) -> Floats:
    """Return the variance of the metric of one unit after the adjustment, as a plan needs it."""
    theta = _coefficient(units)
    own, of_past, shared = _variances(units)
    return np.maximum(own + theta**2 * of_past - 2 * theta * shared, 0.0)


def explained_share(units: Moments) -> Floats:
    """Return the share of the variance that the past explains."""
    own, _, _ = _variances(units)
    return np.asarray(1 - np.divide(variance_of_one(units), own, out=np.ones_like(own), where=own > 0), np.float64)


def mean_of(units: Moments) -> Floats:
    """Return the metric: the ratio of two means."""
    return _ratio(units, VALUE, DENOMINATOR)


def _coefficient(units: Moments) -> Floats:
    """Return θ: how much of the past metric is in the metric; 0 where nothing is known of the past."""
    _, of_past, shared = _variances(units)
    return np.divide(shared, of_past, out=np.zeros_like(shared), where=of_past > 0)


def _variances(units: Moments) -> tuple[Floats, Floats, Floats]:
    """Return the variances of one unit's metric and past metric, and their covariance."""
    covariance = units.covariance
    now = _gradient(units, VALUE, DENOMINATOR)
    past = _gradient(units, PAST_VALUE, PAST_DENOMINATOR)

    def form(left: Floats, right: Floats) -> Floats:
        return np.asarray(np.einsum("...i,...ij,...j->...", left, covariance, right), np.float64)

    return form(now, now), form(past, past), form(now, past)


def _gradient(units: Moments, value: int, denominator: int) -> Floats:
    """Return the derivative of the ratio of two means by the means of all variables."""
    gradient = np.zeros_like(units.mean)
    mean = units.mean[..., denominator]
    inverse = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean != 0)
    gradient[..., value] = inverse
    gradient[..., denominator] = -_ratio(units, value, denominator) * inverse
    return gradient


def _divided(left: Floats, right: Floats, where: NDArray[np.bool_]) -> Floats:
    """Divide; NaN elsewhere."""
    quotient: Floats = np.divide(left, right, out=np.full_like(right, np.nan), where=where)
    return quotient


def _ratio(units: Moments, value: int, denominator: int) -> Floats:
    means = units.mean
    return np.divide(
        means[..., value],
        means[..., denominator],
        out=np.zeros_like(means[..., value]),
        where=means[..., denominator] != 0,
    )
