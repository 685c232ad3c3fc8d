"""Scores rows of features with trees, as their learner does, at the speed of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.links import EXP, IDENTITY, SIGMOID, apply_link
from delorean.scoring.quick_conditions import MOST_LEAVES, QuickConditions, prepare
from delorean.scoring.tree_kernels import LANES, fill_block, fill_codes, score_block, walk_trees
from delorean.scoring.trees import ZERO, TreeEnsemble
from schemas.errors import PackageError

# Fewer rows are walked: a block costs the same for one row as for all lanes of a vector.
_FEW_ROWS = 8
_VECTOR = 16  # lanes of the widest vectors
_LINKS = {"identity": IDENTITY, "sigmoid": SIGMOID, "exp": EXP}
_ROUNDINGS = {"none": 0, "toward_zero": 1, "down": 2}


class TreeScorer:
    """Scores rows of features with trees; a row's score has the same bits whichever rows are scored with it.

    The sums have the learner's bits. So have the scores after rounding to float32, except where a link's exp is the
    learner's own: there they differ by at most the last bits of a float32. They are the same on every machine.

    trees: of at most 64 leaves each for the fast way; larger ones are walked, several times slower
    """

    def __init__(self, trees: TreeEnsemble) -> None:
        self.trees, self.features = trees, trees.features
        largest = int(np.diff(trees.leaf_offsets).max(initial=1))
        self._quick = prepare(trees) if largest <= MOST_LEAVES else None
        # Compile now, or load what an earlier process has compiled, rather than during the first request.
        for rows in (1, _FEW_ROWS):
            self.score(np.zeros((rows, self.features), np.float32))

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        """
        if features.ndim != 2 or features.shape[1] != self.features or features.dtype != np.float32:
            raise PackageError.because(
                f"features are {features.dtype} {features.shape}, expected float32 (rows, {self.features})"
            )
        trees = self.trees
        scores = np.empty(len(features), np.float32)
        sums = np.empty(LANES)
        work = _Work.of(self._quick) if self._quick is not None and len(features) >= _FEW_ROWS else None
        for start in range(0, len(features), LANES):
            rows = min(LANES, len(features) - start)
            sums[:] = trees.base
            if work is not None and self._quick is not None:
                self._add_quickly(self._quick, work, features, start, rows, sums)
            else:
                walk_trees(features, start, rows, trees.arrays, ZERO, _ROUNDINGS[trees.rounding], trees.single, sums)
            into = scores[start : start + rows]
            apply_link(sums, rows, trees.divisor, trees.scale, _LINKS[trees.link], into)
        return scores

    def _add_quickly(
        self,
        quick: QuickConditions,
        work: _Work,
        features: NDArray[np.float32],
        start: int,
        rows: int,
        sums: NDArray[np.float64],
    ) -> None:
        fill_block(features, start, rows, quick.columns, quick.kinds, quick.zero_missing, ZERO, work.block)
        fill_codes(work.block, rows, quick.known_offsets, quick.known, _ROUNDINGS[self.trees.rounding], work.codes)
        lanes = -(-rows // _VECTOR) * _VECTOR
        score_block(
            work.block,
            lanes,
            quick.conditions,
            quick.full,
            work.codes,
            quick.set_conditions,
            self.trees.leaf_offsets,
            quick.leaf_values,
            self.trees.single,
            work.alive,
            sums,
        )


@dataclass(frozen=True)
class _Work:
    """Memory of one call: a scorer may be used by several threads at once."""

    block: NDArray[np.float32]
    codes: NDArray[np.int32]
    alive: NDArray[Any]

    @classmethod
    def of(cls, quick: QuickConditions) -> _Work:
        """Allocate it; lanes without a row hold zeros."""
        block = np.zeros((len(quick.columns), LANES), np.float32)
        codes = np.zeros((len(quick.known_offsets) - 1, LANES), np.int32)
        return cls(block, codes, np.empty(LANES, quick.full.dtype))
