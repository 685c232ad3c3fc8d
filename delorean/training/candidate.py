"""Fits models that are only compared, not packaged: those of a search for parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.fitting import default_model, fit
from delorean.training.onnx_model import sklearn_scores

Scores = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit_candidate(
    model: Any,
    train: RankingData,
    validation: RankingData,
    seed: int,
    on_round: Callable[[int, float], None] | None = None,
) -> Scores:
    """Fit a model and return what scores rows of features.

    model: as `train` takes it
    on_round: called with the number of rounds and NDCG@10 on the validation part, by learners that have rounds

    Raises TrainingError for data or parameters that it cannot be fitted with.
    """
    del on_round
    fitted = fit(default_model(seed) if model is None else model, train, validation)
    return lambda features: sklearn_scores(fitted, features).astype(np.float32)
