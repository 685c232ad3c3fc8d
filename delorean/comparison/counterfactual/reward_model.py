"""A model of rewards, for the doubly robust estimate: predictions for a context never come from its own rewards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.comparison.counterfactual.exposures import LoggedExposures
from delorean.ranking_data.ranking_data import RankingData

_FEWEST = 50  # shown items, for a model; fewer are predicted by their mean


def predicted_rewards(
    part: RankingData, logged: LoggedExposures, clusters: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.float64]:
    """Predict each item's reward if it were shown, by boosted trees on the features, fitted on the other folds.

    clusters: (contexts,) contexts of one cluster are in one fold; None: each context is its own

    Returns (items,) float64.
    """
    groups = np.arange(len(part)) if clusters is None else clusters
    fold_of_group = np.random.default_rng(seed).permutation(int(groups.max(initial=-1)) + 1) % folds
    fold = np.repeat(fold_of_group[groups], np.diff(part.offsets))
    features = np.nan_to_num(part.features, nan=np.nan)  # infinite values become the greatest numbers
    predictions = np.zeros(len(features))
    for each in range(folds):
        inside = fold == each
        if inside.any():
            learned = ~inside & logged.shown
            predictions[inside] = _predict(features, logged.rewards, learned, inside, seed)
    return predictions


def _predict(
    features: NDArray[np.float32],
    rewards: NDArray[np.float64],
    learned: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    seed: int,
) -> NDArray[np.float64]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    known = rewards[learned]
    varying = ~np.isnan(features[learned]).all(axis=0)  # what is missing everywhere cannot be binned
    if len(known) < _FEWEST or not varying.any() or (known == known[0]).all():
        return np.full(int(inside.sum()), known.mean() if len(known) else 0.0)
    model = HistGradientBoostingRegressor(max_iter=100, early_stopping=False, random_state=seed)
    model.fit(features[learned][:, varying], known)
    predictions: NDArray[np.float64] = model.predict(features[inside][:, varying])
    return predictions
