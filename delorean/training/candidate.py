"""Fits models that are only compared, not packaged: those of a search for parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.learners import OnRound
from delorean.training.learners.choice import as_learner

Scores: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit_candidate(
    model: Any, train: RankingData, validation: RankingData, seed: int, on_round: OnRound | None = None
) -> Scores:
    """Fit a model and return what scores rows of features (rows, features).

    model, seed: as `train` takes them
    on_round: see `Learner.fit`

    Raises TrainingError for data or parameters that it cannot be fitted with.
    """
    fitted = as_learner(model).fit(train, validation, seed, on_round)
    return lambda features: fitted.reference(features).astype(np.float32)
