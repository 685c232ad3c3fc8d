"""Scores rows of features with trees, as their learner does, at the speed of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.conditions import Conditions
from delorean.scoring.links import EXP, IDENTITY, SIGMOID, apply_link
from delorean.scoring.prepared_trees import prepare
from delorean.scoring.rank_kernels import TOGETHER, rank_block, score_ranks
from delorean.scoring.tree_kernels import LANES, walk_rows, walk_trees
from delorean.scoring.trees import ZERO, TreeEnsemble
from schemas.errors import PackageError

# Fewer rows than these and than a twelfth of a tree's leaves walk through many trees side by side: conditions cost the
# same for one row as for all lanes of a vector, and a walk skips most of those of a large tree.
_FEW_ROWS = 5
_LEAVES_PER_ROW = 12
_LINKS = {"identity": IDENTITY, "sigmoid": SIGMOID, "exp": EXP}

_Adding = Callable[[NDArray[np.float32], int, NDArray[Any]], None]  # adds leaves to the sums of rows of features


class TreeScorer:
    """Scores rows of features with trees; a row's score has the same bits whichever rows are scored with it.

    The sums have the learner's bits. So have the scores after rounding to float32, except where a link's exp is the
    learner's own: there they differ by at most the last bits of a float32. They are the same on every machine.

    trees: fastest if none has more than 256 leaves, and no feature more than 255 thresholds
    """

    def __init__(self, trees: TreeEnsemble) -> None:
        self.trees, self.features = trees, trees.features
        self._prepared = prepare(trees)
        self._few_rows = max(_FEW_ROWS, int(np.diff(trees.leaf_offsets).max(initial=1)) // _LEAVES_PER_ROW)
        # Compile now, or load what an earlier process has compiled, rather than during the first request.
        for rows in (1, self._few_rows):
            self.score(np.zeros((rows, self.features), np.float32))

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features.

        features: (rows, features) float32, NaN where missing
        """
        if features.ndim != 2 or features.shape[1] != self.features or features.dtype != np.float32:
            raise PackageError.because(
                f"features are {features.dtype} {features.shape}, expected float32 (rows, {self.features})"
            )
        trees, conditions = self.trees, self._prepared.conditions
        # Memory of this call: a scorer may be used by several threads at once.
        sums, scores = np.empty(LANES, self._prepared.leaf_values.dtype), np.empty(len(features), np.float32)
        copied = np.empty((min(LANES, len(features)), self.features), np.float32)
        few = len(features) < self._few_rows
        add = self._walking(few) if conditions is None or few else self._ranking(conditions)
        for start in range(0, len(features), LANES):
            rows = min(LANES, len(features) - start)
            # Rows of any layout, or that are read-only, would be types of their own, each compiled anew.
            copied[:rows] = features[start : start + rows]
            sums[:] = trees.base
            add(copied, rows, sums)
            apply_link(sums, rows, trees.divisor, trees.scale, _LINKS[trees.link], scores[start : start + rows])
        return scores

    def _ranking(self, conditions: Conditions) -> _Adding:
        """Return how rows pass all conditions of trees."""
        coded = conditions.coded
        coded_block, codes = coded.new_block()
        block = np.empty(max(conditions.columns, 1) * LANES, conditions.dtype)
        leaf = np.empty(TOGETHER * LANES, conditions.dtype)

        def add(features: NDArray[np.float32], rows: int, sums: NDArray[Any]) -> None:
            if len(codes):
                coded.fill(features, rows, coded_block, codes)
            rank_block(features, rows, conditions.searches, conditions.ranked, ZERO, block)
            score_ranks(
                block,
                rows,
                0,
                self.trees.trees,
                conditions.offsets,
                conditions.conditions,
                codes,
                conditions.sets,
                self.trees.leaf_offsets,
                conditions.leaf_values,
                leaf,
                sums,
            )

        return add

    def _walking(self, few: bool) -> _Adding:
        """Return how rows walk: a few through many trees side by side, many through one tree after another."""
        prepared, walk = self._prepared, walk_trees if few else walk_rows
        block, codes = prepared.columns.new_block()

        def add(features: NDArray[np.float32], rows: int, sums: NDArray[Any]) -> None:
            prepared.columns.fill(features, rows, block, codes)
            walk(
                block,
                rows,
                prepared.nodes,
                self.trees.node_offsets,
                codes,
                prepared.columns.set_start,
                prepared.columns.set_bits,
                self.trees.leaf_offsets,
                prepared.leaf_values,
                sums,
            )

        return add
