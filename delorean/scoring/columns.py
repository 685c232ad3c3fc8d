"""The columns of a block of rows, in which missing values decide by themselves, and codes of categories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.tree_kernels import LANES, fill_block, fill_codes
from delorean.scoring.trees import ZERO

_ROUNDINGS = {"none": 0, "toward_zero": 1, "down": 2}


@dataclass(frozen=True)
class Columns:
    """The columns of a block, those of codes last.

    features, kinds, zero_missing: (columns,) the feature of each, and what it holds for missing values
    coded: position of the first column of codes
    known_offsets, known: the categories of each coded column
    rounding: of a value before it is looked up among categories
    set_start, set_bits: (nodes,) where a categorical node's bits begin, and the bits of the codes that go left
    """

    features: NDArray[np.int32]
    kinds: NDArray[np.int32]
    zero_missing: NDArray[np.bool_]
    coded: int
    known_offsets: NDArray[np.int64]
    known: NDArray[np.float32]
    rounding: str
    set_start: NDArray[np.int64]
    set_bits: NDArray[np.uint32]

    def new_block(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Allocate a block and its codes; rows that are not filled hold zeros."""
        coded = len(self.features) - self.coded
        return np.zeros(len(self.features) * LANES, np.float32), np.zeros(coded * LANES, np.int32)

    def only_coded(self) -> Columns:
        """Return the columns of codes alone."""
        first = self.coded
        features, kinds, zero_missing = self.features[first:], self.kinds[first:], self.zero_missing[first:]
        return replace(self, features=features, kinds=kinds, zero_missing=zero_missing, coded=0)

    def fill(self, features: NDArray[np.float32], rows: int, block: NDArray[Any], codes: NDArray[Any]) -> None:
        """Copy rows of features to a block, and code its columns of categories."""
        fill_block(features, rows, self.features, self.kinds, self.zero_missing, ZERO, block)
        if len(codes):
            fill_codes(block, self.coded, rows, self.known_offsets, self.known, _ROUNDINGS[self.rounding], codes)
