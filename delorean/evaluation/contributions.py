"""What each feature adds to each score, as the learner's own library computes it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def contributions_of(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return TreeSHAP values (Lundberg et al. 2020) of rows, (rows, features) in units of the raw score.

    A row's values add up to its raw score, less the mean score of the training part.

    model: a fitted LightGBM or XGBoost model, or its booster; for any other, and for several classes, None is returned
    features: (rows, features)
    """
    for of_library in (_of_lightgbm, _of_xgboost):
        values = of_library(model, features)
        if values is not None and values.ndim == 2 and values.shape[1] == features.shape[1] + 1:
            return values[:, :-1].astype(np.float64)  # the last column is the mean score
    return None


def _of_lightgbm(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
    library = sys.modules.get("lightgbm")  # a model of a library that was never imported does not exist
    if library is None:
        return None
    booster = model.booster_ if isinstance(model, library.LGBMModel) else model
    if not isinstance(booster, library.Booster):
        return None
    return np.asarray(booster.predict(features, pred_contrib=True))


def _of_xgboost(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
    library = sys.modules.get("xgboost")
    if library is None:
        return None
    booster = model.get_booster() if isinstance(model, library.XGBModel) else model
    if not isinstance(booster, library.Booster):
        return None
    best = booster.attr("best_iteration")  # set by early stopping; later trees are not scored
    used = (0, 0) if best is None else (0, int(best) + 1)
    rows = library.DMatrix(features)
    return np.asarray(booster.predict(rows, pred_contribs=True, iteration_range=used, validate_features=False))
