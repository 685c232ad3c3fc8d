"""Turns scores into probabilities, by task; the same operations offline and online, with the same bits everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.links import SIGMOID, apply_link
from schemas.errors import PackageError

MOST_KNOTS = 1 << 20


@dataclass(frozen=True)
class SigmoidCalibration:
    """The probability of a score s is 1 / (1 + exp(−(slope · s + intercept))) (Platt 1999).

    slope: 0 or more, so that a higher score never has a lower probability
    """

    slope: float
    intercept: float

    method: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        """Reject numbers that would reverse an order, or that are none."""
        if not (np.isfinite([self.slope, self.intercept]).all() and self.slope >= 0):
            raise _wrong(f"slope {self.slope} and intercept {self.intercept}, expected numbers, the slope 0 or more")

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of each score."""
        with np.errstate(over="ignore", invalid="ignore"):
            sums = scores.astype(np.float64) * self.slope
            sums = np.where(np.isnan(sums), 0.0, sums) + self.intercept  # 0 · ∞
        result = np.empty(len(scores), np.float32)
        apply_link(sums, len(sums), 1.0, 1.0, SIGMOID, result)
        return result


@dataclass(frozen=True, eq=False)
class IsotonicCalibration:
    """Probabilities that ascend from knot to knot, linear between them and constant beyond (Zadrozny and Elkan 2002).

    scores: (knots,) float64, ascending; probabilities: (knots,) float64 from 0 to 1, never descending
    """

    scores: NDArray[np.float64]
    values: NDArray[np.float64]

    method: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        """Reject knots that would reverse an order, or that are no probabilities."""
        for array in (self.scores, self.values):
            if array.dtype != np.float64 or array.ndim != 1 or not np.isfinite(array).all():
                raise _wrong("knots are not finite doubles")
        if len(self.scores) != len(self.values) or not 1 <= len(self.scores) <= MOST_KNOTS:
            raise _wrong(f"{len(self.scores)} scores and {len(self.values)} probabilities, expected 1 to {MOST_KNOTS}")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.values) < 0).any():
            raise _wrong("knots do not ascend")
        if self.values[0] < 0 or self.values[-1] > 1:
            raise _wrong("probabilities are not between 0 and 1")

    def __eq__(self, other: object) -> bool:
        """Compare every knot."""
        if not isinstance(other, IsotonicCalibration):
            return NotImplemented
        return np.array_equal(self.scores, other.scores) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of each score."""
        x = np.clip(scores.astype(np.float64), self.scores[0], self.scores[-1])
        right = np.clip(np.searchsorted(self.scores, x, side="left"), 1, max(1, len(self.scores) - 1))
        if len(self.scores) == 1:
            return np.full(len(scores), self.values[0], np.float32)
        left = right - 1
        share = (x - self.scores[left]) / (self.scores[right] - self.scores[left])
        between = self.values[left] + share * (self.values[right] - self.values[left])
        # Rounding must not pass the next knot: a higher score would get a lower probability.
        return np.minimum(between, self.values[right]).astype(np.float32)


TaskCalibration: TypeAlias = SigmoidCalibration | IsotonicCalibration


def calibrated(
    scores: NDArray[np.float32],
    numbers: NDArray[np.int64],
    names: Sequence[str],
    calibrations: Mapping[str, TaskCalibration],
) -> NDArray[np.float32]:
    """Return the probability of each score, NaN for tasks without a calibration.

    numbers: (scores,) the number of each score's task; names: of the tasks, by their numbers
    """
    result = np.full(len(scores), np.nan, np.float32)
    for number, name in enumerate(names):
        rows = numbers == number
        if name in calibrations and rows.any():
            result[rows] = calibrations[name].probabilities(scores[rows])
    return result


def _wrong(problem: str) -> PackageError:
    return PackageError.because(f"the calibration is malformed: {problem}", "package the model again")
