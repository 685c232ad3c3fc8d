"""Checks that what is served scores as the fitted model does, missing values included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring import Scorer
from delorean.training.learners.choice import as_model
from delorean.training.missing_values import IMPUTE, MissingValueHandling, with_missing_values
from schemas.errors import PackageError

_TOLERANCE = 1e-5


def refuse_disagreement(scorer: Scorer, model: Any, features: NDArray[np.float32]) -> None:
    """Raise PackageError unless a scorer and the model score every row alike, within the accuracy of float32.

    model: the fitted object of a library
    """
    ours, theirs = scorer.score(features).astype(np.float64), as_model(model).reference(features)
    wrong = ~(np.abs(ours - theirs) <= _TOLERANCE * (1 + np.abs(theirs)))
    if wrong.any():
        row = int(np.argmax(wrong))
        incomplete = wrong & np.isnan(features).any(axis=1)
        raise PackageError.because(
            f"the served model disagrees with {type(model).__name__} in {int(wrong.sum())} of {len(wrong)} rows, "
            f"{int(incomplete.sum())} of them with missing values: "
            f"{ours[row]:.7g} against {theirs[row]:.7g} in row {row}",
            IMPUTE if incomplete.sum() == wrong.sum() else "package a model that ONNX expresses exactly",
        )


def check_missing_values(scorer: Scorer, model: Any, features: NDArray[np.float32]) -> MissingValueHandling:
    """Return how a model handles missing values; what is served must do the same.

    features: some rows; their values are left out one by one and all together

    Raises PackageError if the two disagree.
    """
    handling = as_model(model).missing_values(features.shape[1])
    if handling == "used":
        refuse_disagreement(scorer, model, with_missing_values(features))
    return handling
