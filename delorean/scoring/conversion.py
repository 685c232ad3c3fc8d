"""Converts learners' fitted models to plain trees that decide and sum exactly as the learner does."""

from __future__ import annotations

import math
import sys
from typing import Any

from delorean.scoring.lightgbm_trees import lightgbm_trees
from delorean.scoring.sklearn_trees import sklearn_trees
from delorean.scoring.trees import TreeEnsemble
from delorean.scoring.xgboost_trees import xgboost_trees


def trees_of(model: Any) -> TreeEnsemble | None:
    """Convert a fitted model to trees; None for a scikit-learn model that is not one of trees with a single score.

    model: a LightGBM `Booster` or `LGBMModel`, an XGBoost `Booster` or `XGBModel`, or a scikit-learn estimator. Of a
        model that stopped early, only the trees up to its best iteration are converted

    Raises TrainingError, which names the reason, for a model of LightGBM or XGBoost that these trees cannot express:
    several classes or targets, linear trees, a linear booster, or a link other than identity, sigmoid and exp.
    """
    # A fitted model exists only where its library has been imported: nothing is imported for the check.
    lightgbm, xgboost = sys.modules.get("lightgbm"), sys.modules.get("xgboost")
    if lightgbm is not None:
        if isinstance(model, lightgbm.Booster):
            return lightgbm_trees(model)
        if isinstance(model, lightgbm.LGBMModel):
            return lightgbm_trees(model.booster_)
    if xgboost is not None:
        if isinstance(model, xgboost.Booster):
            return xgboost_trees(model)
        if isinstance(model, xgboost.XGBModel):
            return xgboost_trees(model.get_booster(), missing=math.nan if model.missing is None else model.missing)
    return sklearn_trees(model)
