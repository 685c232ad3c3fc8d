"""Counts, means and scatter of units' values, from which all estimates are made; they add up in any order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A unit's variables: its outcomes and their denominator, then the same before its first exposure.
VALUE, DENOMINATOR, PAST_VALUE, PAST_DENOMINATOR = range(4)
VARIABLES = 4


@dataclass(frozen=True)
class Moments:
    """Moments of groups of units.

    count: (…)
    mean: (…, variables)
    scatter: (…, variables, variables) Σ (x − mean)(x − mean)ᵀ
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def none(cls, *shape: int) -> Moments:
        """Return the moments of groups without units."""
        return cls(np.zeros(shape), np.zeros((*shape, VARIABLES)), np.zeros((*shape, VARIABLES, VARIABLES)))

    @classmethod
    def of(cls, values: NDArray[np.float64], groups: NDArray[np.int64], count: int) -> Moments:
        """Return the moments of units by group.

        values: (units, variables)
        groups: (units,) from 0 to count − 1

        >>> Moments.of(np.array([[1.0, 1, 0, 0], [3, 1, 0, 0]]), np.array([0, 0]), 1).mean[0].tolist()
        [2.0, 1.0, 0.0, 0.0]
        """
        units = np.bincount(groups, minlength=count).astype(np.float64)
        shift = values.mean(axis=0) if len(values) else np.zeros(VARIABLES)
        centred = values - shift  # so that large means do not cancel digits

        def sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(groups, weights, count).astype(np.float64)

        first = np.stack([sums(centred[:, i]) for i in range(VARIABLES)], axis=-1)
        second = np.empty((count, VARIABLES, VARIABLES))
        for i in range(VARIABLES):
            for j in range(i, VARIABLES):
                second[:, i, j] = second[:, j, i] = sums(centred[:, i] * centred[:, j])
        safe = np.maximum(units, 1.0)
        mean = first / safe[:, np.newaxis]
        scatter = second - first[:, :, np.newaxis] * mean[:, np.newaxis, :]
        return cls(units, np.where(units[:, np.newaxis] > 0, mean + shift, 0.0), scatter)

    def __add__(self, other: Moments) -> Moments:
        """Combine two sets of units, group by group (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        difference = other.mean - self.mean
        between = difference[..., :, np.newaxis] * difference[..., np.newaxis, :]
        weight = (self.count * share)[..., np.newaxis, np.newaxis]
        mean = self.mean + difference * share[..., np.newaxis]
        return Moments(count, mean, self.scatter + other.scatter + between * weight)

    def __getitem__(self, group: Any) -> Moments:
        """Return some of the groups, by the first axis."""
        return Moments(*(np.asarray(each[group]) for each in (self.count, self.mean, self.scatter)))

    def reshape(self, *shape: int) -> Moments:
        """Arrange the groups in another shape."""
        return Moments(
            self.count.reshape(shape),
            self.mean.reshape(*shape, VARIABLES),
            self.scatter.reshape(*shape, VARIABLES, VARIABLES),
        )

    def cumulative(self) -> Moments:
        """Combine each group of the last axis with all before it."""
        last = self.count.ndim - 1
        steps = [
            Moments(*(np.take(each, place, last) for each in (self.count, self.mean, self.scatter)))
            for place in range(self.count.shape[last])
        ]
        totals = list(accumulate(steps))
        return Moments(
            np.stack([total.count for total in totals], last),
            np.stack([total.mean for total in totals], last),
            np.stack([total.scatter for total in totals], last),
        )

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(…, variables, variables), of one unit; NaN below two units."""
        freedom = np.where(self.count > 1, self.count - 1, np.nan)
        covariance: NDArray[np.float64] = self.scatter / freedom[..., np.newaxis, np.newaxis]
        return covariance
