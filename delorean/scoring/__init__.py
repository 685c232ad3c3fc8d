"""Scores rows of features with a fitted model. A model is data: loading it executes no code from it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Scorer(Protocol):
    """Scores rows of features; a row's score has the same bits whichever rows are scored with it.

    features: number of features that it takes
    """

    features: int

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        """
        ...
