"""Adds up, part by part and in bounded memory, how the values of a feature differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.audit.comparison.result import ChangeStatus, FeatureChange
from delorean.quantiles import bin_columns, quantiles, sum_bins


@dataclass
class ValueDifferences:
    """The differences of one feature so far.

    total: sum of all differences between known values
    counts: their distribution, see `delorean.quantiles`; None before the first difference
    """

    rows: int = 0
    items: int = 0
    became_known: int = 0
    became_unknown: int = 0
    unknown_otherwise: int = 0
    total: float = 0.0
    counts: pa.Table | None = None
    moments: Moments = field(default_factory=lambda: Moments())

    def add(self, before: pa.Array, after: pa.Array, row_of: NDArray[np.int64]) -> None:
        """Add the values of some items, float32.

        row_of: (items,) the row of each item; the items of a row must not be split over calls
        """
        (old, old_bits), (new, new_bits) = _values(before), _values(after)
        changed = old_bits != new_bits
        if before.null_count or after.null_count:
            changed |= _nulls(before) != _nulls(after)
        unknown_before, unknown_after = np.isnan(old), np.isnan(new)
        self.moments.add(old, new)
        if not changed.any():
            return
        self.items += int(changed.sum())
        self.rows += len(np.unique(row_of[changed]))
        self.became_known += int((unknown_before & ~unknown_after).sum())
        self.became_unknown += int((~unknown_before & unknown_after).sum())
        self.unknown_otherwise += int((changed & unknown_before & unknown_after).sum())
        comparable = changed & ~unknown_before & ~unknown_after
        self._add_differences(np.abs(new[comparable].astype(np.float64) - old[comparable]))

    def _add_differences(self, differences: NDArray[np.float64]) -> None:
        if not len(differences):
            return
        self.total += float(differences.sum())
        counts = pa.table(bin_columns(differences))
        self.counts = sum_bins(counts if self.counts is None else pa.concat_tables([self.counts, counts]))

    def change(self, feature: str) -> FeatureChange:
        """Return the feature's change."""
        change = FeatureChange(
            feature,
            ChangeStatus.CHANGED if self.items else ChangeStatus.EQUAL,
            self.rows,
            self.items,
            self.became_known,
            self.became_unknown,
            self.unknown_otherwise,
            correlation=self.moments.correlation,
        )
        if self.counts is None:
            return change
        p50, p90, p99, greatest = quantiles(self.counts, (0.5, 0.9, 0.99, 1.0))
        mean = self.total / sum(self.counts["rows"].to_pylist())
        return replace(change, mean_difference=mean, max_difference=greatest, p50=p50, p90=p90, p99=p99)


@dataclass
class Moments:
    """Means and squared deviations of two values, merged part by part (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    spread: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    lowest: NDArray[np.float64] = field(default_factory=lambda: np.full(2, np.inf))
    highest: NDArray[np.float64] = field(default_factory=lambda: np.full(2, -np.inf))

    def add(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        """Add pairs of values; those not finite on both sides are left out."""
        finite = np.isfinite(before) & np.isfinite(after)
        pairs = np.stack([before[finite], after[finite]]).astype(np.float64)
        count = pairs.shape[1]
        if not count:
            return
        self.lowest = np.minimum(self.lowest, pairs.min(axis=1))
        self.highest = np.maximum(self.highest, pairs.max(axis=1))
        mean = pairs.mean(axis=1)
        pairs -= mean[:, None]
        apart = mean - self.mean
        both = self.count + count
        self.spread += pairs @ pairs.T + np.outer(apart, apart) * (self.count * count / both)
        self.mean += apart * (count / both)
        self.count = both

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation; None where a side does not vary."""
        if not (self.lowest < self.highest).all():  # with rounding, the deviations of equal values may not be 0
            return None
        scale = np.sqrt(self.spread[0, 0]) * np.sqrt(self.spread[1, 1])
        return float(np.clip(self.spread[0, 1] / scale, -1.0, 1.0))


def bits_differ(before: pa.Array, after: pa.Array) -> int:
    """Count the positions where two arrays of float32 differ in any bit."""
    changed = _values(before)[1] != _values(after)[1]
    return int((changed | (_nulls(before) != _nulls(after))).sum())


def _values(array: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return the values, nulls as NaN, and their bits."""
    values = array.fill_null(float("nan")) if array.null_count else array
    floats: NDArray[np.float32] = values.to_numpy()
    return floats, floats.view(np.uint32)


def _nulls(array: pa.Array) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls
