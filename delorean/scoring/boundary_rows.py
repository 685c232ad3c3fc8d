"""Rows that show whether two scorers decide alike: on every kind of boundary, and for values that are not numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.trees import ZERO, TreeEnsemble

_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, ZERO, -ZERO, 3.4028235e38, -3.4028235e38, -0.5, 1e10)


def boundary_rows(trees: TreeEnsemble, features: NDArray[np.float32], most: int = 4_096) -> NDArray[np.float32]:
    """Return rows with one feature each replaced by a value at which a tree decides, or that is special.

    Such values are thresholds and their float32 neighbours, categories and numbers beside them, NaN, ±∞, −0, denormal
    and the largest numbers.

    features: (rows, features) rows to change, at least one
    most: rows to return; thresholds and categories are spread evenly over all there are
    """
    columns, values = [], []
    for special in _SPECIAL:
        columns.append(np.arange(trees.features))
        values.append(np.full(trees.features, special, np.float32))
    used = len(_SPECIAL) * trees.features
    for column, exact in _decisions(trees):
        few = (
            np.unique(np.linspace(0, len(exact) - 1, max(1, (most - used) // 6), dtype=np.int64)) if len(exact) else []
        )
        chosen = exact[few]
        with np.errstate(over="ignore"):
            around = [np.nextafter(chosen, np.float32(end)) for end in (-np.inf, np.inf)]
        for value in (chosen, *around):
            columns.append(column[few])
            values.append(value)
    column, value = np.concatenate(columns)[:most], np.concatenate(values)[:most]
    rows = features[np.arange(len(column)) % len(features)].copy()
    rows[np.arange(len(column)), column] = value
    return rows


def _decisions(trees: TreeEnsemble) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return the features and values of all thresholds, and of all categories with fractions beside them."""
    numeric = np.flatnonzero(trees.category_set < 0)
    categorical = np.flatnonzero(trees.category_set >= 0)
    sizes = np.diff(trees.category_offsets)[trees.category_set[categorical]]
    first = np.repeat(trees.category_offsets[:-1][trees.category_set[categorical]], sizes)
    within = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    categories = trees.categories[first + within] if len(first) else np.zeros(0, np.float32)
    of_category = np.repeat(trees.feature[categorical], sizes).astype(np.int64)
    return [
        (trees.feature[numeric].astype(np.int64), trees.threshold[numeric]),
        (np.repeat(of_category, 2), np.stack([categories, categories + np.float32(0.5)], axis=1).reshape(-1)),
    ]
