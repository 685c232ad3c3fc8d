"""Bins of histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BINS = 24


def bin_edges(values: NDArray[np.float32 | np.float64]) -> NDArray[np.float64]:
    """Edges of equal bins over all but the outermost 1 % of values, which are finite and not empty.

    Whole numbers get bins with equally many of them in each.
    """
    low, high = np.percentile(values, [0.5, 99.5]).astype(np.float64)
    if np.all(values == np.round(values)):
        step = np.ceil((high - low + 1) / _BINS)
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + step, step)
    return np.linspace(low, high if high > low else low + 1, _BINS + 1)
