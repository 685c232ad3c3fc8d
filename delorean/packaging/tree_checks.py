"""Checks that trees, their ONNX twin and the learner score alike where the smallest difference would show."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from delorean.scoring.boundary_rows import boundary_rows
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.training.missing_values import MissingValueHandling
from schemas.errors import PackageError

# Of the score: a link's exp may differ in the last bits of a float32, and XGBoost sums DART's trees in two ways.
_TOLERANCE = 1e-6


class _Reference(Protocol):
    """A model with its ONNX form and the learner's own scores."""

    @property
    def onnx(self) -> bytes: ...

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]: ...


def refuse_inexact_trees(
    trees: TreeEnsemble, model: _Reference, features: NDArray[np.float32], missing_values: MissingValueHandling
) -> None:
    """Raise PackageError unless trees, ONNX and the learner agree on rows that lie on thresholds, and beside them.

    features: some rows; their values are replaced by thresholds, categories and special values, one by one
    missing_values: of a model that refuses them, rows without missing values are compared
    """
    rows = boundary_rows(trees, np.concatenate([features, np.nan_to_num(features)]))
    if missing_values == "refused":
        rows = rows[~np.isnan(rows).any(axis=1)]
    ours = TreeScorer(trees).score(rows)
    _refuse_difference("their ONNX form", ours, OnnxScorer(model.onnx).score(rows), exact=False)
    finite = ~np.isinf(rows).any(axis=1)  # not every learner accepts infinities
    learned = model.reference(rows[finite]).astype(np.float32)
    _refuse_difference("the learner", ours[finite], learned, exact=trees.link == "identity" and not trees.single)


def _refuse_difference(other: str, ours: NDArray[np.float32], theirs: NDArray[np.float32], *, exact: bool) -> None:
    tolerance = 0 if exact else _TOLERANCE * (1 + np.abs(theirs))
    wrong = ~((ours == theirs) | (np.abs(ours - theirs) <= tolerance))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise PackageError.because(
            f"the trees disagree with {other} in {int(wrong.sum())} of {len(wrong)} rows on or beside thresholds: "
            f"{ours[row]!s} against {theirs[row]!s}",
            "report this: please add the model's library and its parameters",
        )
