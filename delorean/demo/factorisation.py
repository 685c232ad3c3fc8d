"""Predicts ratings by matrix factorisation, fitted by alternating least squares on the ratings up to a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.demo.world import Ints, micros_of

RANK: Final = 6
_SWEEPS: Final = 6
_DAMPING: Final = 5.0  # ratings at the mean that each bias is pulled to
_PENALTY: Final = 5.0  # on the squared length of each factor
_SEED: Final = 20150630

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """A fitted model: stars = mean + bias of the profile + bias of the video + product of their factors."""

    profile_ids: Ints  # sorted
    video_ids: Ints  # sorted
    mean: float
    profile_bias: Floats
    video_bias: Floats
    profile_factors: Floats
    video_factors: Floats

    def knows(self, profile_id: int) -> bool:
        """Whether the profile had rated anything."""
        at = int(np.searchsorted(self.profile_ids, profile_id))
        return at < len(self.profile_ids) and bool(self.profile_ids[at] == profile_id)

    def expected(self, profile_id: int) -> Floats:
        """Predict the rating of each of `video_ids` by a profile that has rated before; not clipped to 0.5–5."""
        at = int(np.searchsorted(self.profile_ids, profile_id))
        stars: Floats = self.video_factors @ self.profile_factors[at]
        stars += self.mean + self.profile_bias[at] + self.video_bias
        return stars


def factorise(ratings: pa.Table, before: int) -> Factors:
    """Fit the ratings given before a moment (microseconds); the same ratings give the same model.

    ratings: profile_id, video_id, rating, rated_at
    """
    past = micros_of(ratings["rated_at"]) < before
    profile_ids, who = np.unique(ratings["profile_id"].to_numpy()[past], return_inverse=True)
    video_ids, what = np.unique(ratings["video_id"].to_numpy()[past], return_inverse=True)
    stars = ratings["rating"].to_numpy()[past].astype(np.float64)
    mean = float(stars.mean()) if len(stars) else 0.0
    video_bias = _bias(what, stars - mean, len(video_ids))
    profile_bias = _bias(who, stars - mean - video_bias[what], len(profile_ids))
    rest = stars - mean - video_bias[what] - profile_bias[who]
    rng = np.random.default_rng(_SEED)
    video_factors = rng.normal(0, 0.1, (len(video_ids), RANK))
    profile_factors = np.zeros((len(profile_ids), RANK))
    for _ in range(_SWEEPS):
        profile_factors = _solve(who, len(profile_ids), video_factors[what], rest)
        video_factors = _solve(what, len(video_ids), profile_factors[who], rest)
    return Factors(profile_ids, video_ids, mean, profile_bias, video_bias, profile_factors, video_factors)


def _bias(groups: Ints, rest: Floats, count: int) -> Floats:
    sums, sizes = np.bincount(groups, rest, count), np.bincount(groups, minlength=count)
    bias: Floats = sums / (sizes + _DAMPING)
    return bias


def _solve(groups: Ints, count: int, factors: Floats, rest: Floats) -> Floats:
    """Fit each group's factor by ridge regression of its residuals on the other side's factors."""
    squares = np.empty((count, RANK, RANK))
    targets = np.empty((count, RANK, 1))
    for i in range(RANK):
        targets[:, i, 0] = np.bincount(groups, factors[:, i] * rest, count)
        for j in range(i + 1):
            squares[:, i, j] = squares[:, j, i] = np.bincount(groups, factors[:, i] * factors[:, j], count)
    squares += _PENALTY * np.eye(RANK)
    solved: Floats = np.linalg.solve(squares, targets).astype(np.float64)
    return solved[:, :, 0]
