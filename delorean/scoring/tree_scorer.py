"""Scores rows of features with trees, as their learner does, at the speed of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.links import EXP, IDENTITY, SIGMOID, apply_link
from delorean.scoring.prepared_trees import Conditions, prepare
from delorean.scoring.tree_kernels import LANES, fill_block, fill_codes, score_block, walk_rows, walk_trees
from delorean.scoring.trees import ZERO, TreeEnsemble
from schemas.errors import PackageError

# Fewer rows are walked: a block costs the same for one row as for all lanes of a vector.
_FEW_ROWS = 5
_VECTOR = 16  # lanes of the widest vectors
_LINKS = {"identity": IDENTITY, "sigmoid": SIGMOID, "exp": EXP}
_ROUNDINGS = {"none": 0, "toward_zero": 1, "down": 2}


@dataclass(frozen=True)
class TreeRange:
    """Trees that are next to each other, as the kernels read them: views of the arrays of all trees.

    conditions: None where the trees are walked
    """

    node_offsets: NDArray[np.int32]
    leaf_offsets: NDArray[np.int32]
    conditions: Conditions | None


class TreeScorer:
    """Scores rows of features with trees; a row's score has the same bits whichever rows are scored with it.

    The sums have the learner's bits. So have the scores after rounding to float32, except where a link's exp is the
    learner's own: there they differ by at most the last bits of a float32. They are the same on every machine.

    trees: fastest if none has more than 64 leaves
    """

    def __init__(self, trees: TreeEnsemble) -> None:
        self.trees, self.features = trees, trees.features
        self._prepared = prepare(trees)
        self._whole = (self.range_of(0, trees.trees),)
        # Compile now, or load what an earlier process has compiled, rather than during the first request.
        for rows in (1, _FEW_ROWS):
            self.score(np.zeros((rows, self.features), np.float32))

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        """
        return self.score_by(features, self._whole)

    def range_of(self, start: int, end: int) -> TreeRange:
        """Return the trees from `start` up to `end`; nothing is copied."""
        conditions = self._prepared.conditions
        return TreeRange(
            self.trees.node_offsets[start : end + 1],
            self.trees.leaf_offsets[start : end + 1],
            None if conditions is None else conditions.between(start, end),
        )

    def score_by(self, features: NDArray[np.float32], ranges: Sequence[TreeRange]) -> NDArray[np.float32]:
        """Score rows of features by some of the trees, summed in the order of the ranges."""
        if features.ndim != 2 or features.shape[1] != self.features or features.dtype != np.float32:
            raise PackageError.because(
                f"features are {features.dtype} {features.shape}, expected float32 (rows, {self.features})"
            )
        trees, columns = self.trees, self._prepared.columns
        # Memory of this call: a scorer may be used by several threads at once.
        (block, codes), sums = columns.new_block(), np.empty(LANES, self._prepared.leaf_values.dtype)
        scores = np.empty(len(features), np.float32)
        copied = np.empty((min(LANES, len(features)), self.features), np.float32)
        for start in range(0, len(features), LANES):
            rows = min(LANES, len(features) - start)
            # Rows of any layout, or that are read-only, would be types of their own, each compiled anew.
            copied[:rows] = features[start : start + rows]
            sums[:] = trees.base
            fill_block(copied, rows, columns.features, columns.kinds, columns.zero_missing, ZERO, block)
            if len(codes):
                rounding = _ROUNDINGS[trees.rounding]
                fill_codes(block, columns.coded, rows, columns.known_offsets, columns.known, rounding, codes)
            for chosen in ranges:
                if chosen.conditions is not None and len(features) >= _FEW_ROWS:
                    _score_block(chosen, chosen.conditions, block, codes, rows, sums)
                else:
                    self._walk(chosen, block, codes, rows, sums)
            apply_link(sums, rows, trees.divisor, trees.scale, _LINKS[trees.link], scores[start : start + rows])
        return scores

    def _walk(self, chosen: TreeRange, block: NDArray[Any], codes: NDArray[Any], rows: int, sums: NDArray[Any]) -> None:
        walk = walk_trees if rows < _FEW_ROWS else walk_rows
        walk(
            block,
            rows,
            self._prepared.nodes,
            chosen.node_offsets,
            codes,
            self._prepared.columns.set_start,
            self._prepared.columns.set_bits,
            chosen.leaf_offsets,
            self._prepared.leaf_values,
            sums,
        )


def _score_block(
    chosen: TreeRange,
    conditions: Conditions,
    block: NDArray[Any],
    codes: NDArray[Any],
    rows: int,
    sums: NDArray[Any],
) -> None:
    score_block(
        block,
        -(-rows // _VECTOR) * _VECTOR,
        conditions.numeric,
        conditions.full,
        codes,
        conditions.sets,
        chosen.leaf_offsets,
        conditions.leaf_values,
        np.empty(LANES, conditions.full.dtype),
        sums,
    )
