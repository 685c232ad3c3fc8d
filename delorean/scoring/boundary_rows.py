"""Rows that show whether two scorers decide alike: on every kind of boundary, and for values that are not numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.trees import ZERO, TreeEnsemble

_SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, ZERO, -ZERO, 3.4028235e38, -3.4028235e38, -0.5, 1e10], np.float32
)


def boundary_rows(trees: TreeEnsemble, features: NDArray[np.float32], most: int = 4_096) -> NDArray[np.float32]:
    """Return rows with one feature each replaced by a value at which a tree decides, or that is special.

    Such values are thresholds and their float32 neighbours, categories and numbers beside them, NaN, ±∞, −0, denormal
    and the largest numbers.

    features: (rows, features) rows to change, at least one
    most: rows to return, a quarter of them for special values; each kind is spread evenly over all there are
    """
    special = (np.repeat(np.arange(trees.features), len(_SPECIAL)), np.tile(_SPECIAL, trees.features))
    parts = [_spread(*special, most // 4), *_decisions(trees, most // 12)]
    column, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    rows = features[np.arange(len(column)) % len(features)].copy()
    rows[np.arange(len(column)), column] = value
    return rows


def _spread(
    column: NDArray[np.int64], value: NDArray[np.float32], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    few = np.linspace(0, max(len(value) - 1, 0), min(len(value), most)).astype(np.int64)
    return column[few], value[few]


def _decisions(trees: TreeEnsemble, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield features with thresholds and their neighbours, and with categories and fractions beside them."""
    numeric, categorical = np.flatnonzero(trees.category_set < 0), np.flatnonzero(trees.category_set >= 0)
    column, threshold = _spread(trees.feature[numeric].astype(np.int64), trees.threshold[numeric], most)
    with np.errstate(over="ignore"):
        for end in (-np.inf, np.inf):
            yield column, np.nextafter(threshold, np.float32(end))
    yield column, threshold
    filled = categorical[np.diff(trees.category_offsets)[trees.category_set[categorical]] > 0]
    sets = trees.category_set[filled]
    for place in (trees.category_offsets[sets], trees.category_offsets[1:][sets] - 1):  # the first and the last
        column, category = _spread(trees.feature[filled].astype(np.int64), trees.categories[place], most // 2)
        for beside in (0, 0.5, 1):
            yield column, category + np.float32(beside)
