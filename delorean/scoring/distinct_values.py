"""The distinct values of each column, and ranks among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def distinct_values(
    column: NDArray[Any], values: NDArray[np.float32], columns: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return where each column's distinct values begin, the values, ascending, and each value's rank in its column.

    column: (values,) each value's; columns: their number

    >>> distinct_values(np.array([1, 0, 1]), np.float32([5, 7, 3]), 2)
    (array([0, 1, 3]), array([7., 3., 5.], dtype=float32), array([1, 0, 0]))
    """
    order = np.lexsort((values, column))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(column[order]) != 0) | (values[order][1:] != values[order][:-1])  # no difference: ∞ − ∞ is NaN
    position = np.empty(len(order), np.int64)
    position[order] = np.cumsum(new) - 1
    offsets = np.searchsorted(column[order][new], np.arange(columns + 1))
    return offsets, values[order][new], position - offsets[column]
