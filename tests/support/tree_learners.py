"""Small models of every learner, rows that show where trees are not exact, and a plain walk as an oracle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightgbm
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from delorean.scoring.trees import TreeEnsemble

Raw = Callable[[NDArray[np.float32]], Any]
ROWS, FEATURES = 2_000, 6
_TYPES = ["q"] * 5 + ["c"]
_SPECIAL = np.array(
    [
        *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-35, -1e-35, 1.1e-35, -1.1e-35, 3.4028235e38),
        *(-3.4028235e38, -0.5, 0.5, 2.7, -3, 255, 256, 300, 16777217, 1e9, 3e9, -1e10),
    ],
    np.float32,
)


def training_data(missing: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features with zeros, tiny values and categories in the last column, and labels that depend on them."""
    random = np.random.default_rng(0)
    features = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    features[:, 2] = np.where(random.random(ROWS) < 0.5, 0, features[:, 2])
    features[:, 3] = random.integers(-2, 3, ROWS)
    features[:, 4] *= np.float32(1e-35)
    features[:, 5] = random.integers(0, 40, ROWS)
    if missing:
        features[random.random(features.shape) < 0.1] = np.nan
    signal = np.nan_to_num(features[:, 0]) + 1e35 * np.nan_to_num(features[:, 4]) + (features[:, 2] == 0)
    return features, ((signal + random.normal(size=ROWS) > 0) | (features[:, 5] % 3 == 0)).astype(np.int64)


def probing_rows(trees: TreeEnsemble) -> NDArray[np.float32]:
    """Return rows that lie on thresholds, their float32 neighbours, and special values in every column."""
    random = np.random.default_rng(1)
    features, _ = training_data(missing=True)
    parts = [features[:100]]
    for column in range(FEATURES):
        values = np.unique(trees.threshold[(trees.feature == column) & (trees.category_set < 0)])
        values = random.permutation(values)[:15]
        below, above = (np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf))
        values = np.concatenate([values, below, above, _SPECIAL])
        rows = features[random.integers(0, ROWS, len(values))]
        rows[:, column] = values
        parts.append(rows)
    return np.concatenate(parts)


def walked(trees: TreeEnsemble, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score rows before the link by the words of `TreeEnsemble`, one row and one node at a time."""
    scores = np.empty(len(features))
    for i, row in enumerate(features):
        total: Any = np.float32(trees.base) if trees.single else trees.base
        for tree in range(trees.trees):
            leaf = trees.leaf_values[trees.leaf_offsets[tree] + _leaf(trees, tree, row)]
            total = np.float32(total + np.float32(leaf)) if trees.single else total + leaf
        scores[i] = total / trees.divisor
    return scores


def _leaf(trees: TreeEnsemble, tree: int, row: NDArray[np.float32]) -> int:
    first, child = trees.node_offsets[tree], 0
    if trees.node_offsets[tree + 1] == first:
        return 0
    while child >= 0:
        node = first + child
        child = int(trees.left[node] if _goes_left(trees, node, row[trees.feature[node]]) else trees.right[node])
    return ~child


def _goes_left(trees: TreeEnsemble, node: int, value: np.float32) -> bool:
    if np.isnan(value) or (trees.zero_missing[node] and abs(value) <= np.float32(1e-35)):
        return bool(trees.missing_left[node])
    if trees.category_set[node] < 0:
        return bool(value <= trees.threshold[node])
    rounded = {"none": value, "toward_zero": np.trunc(value), "down": np.floor(value)}[trees.rounding]
    start, end = trees.category_offsets[trees.category_set[node] :][:2]
    return bool(rounded in trees.categories[start:end])


def lightgbm_model(missing: bool = True, rounds: int = 8, **parameters: Any) -> lightgbm.Booster:
    """Train a small LightGBM model whose last feature is categorical."""
    features, labels = training_data(missing)
    group = [50] * (ROWS // 50) if "rank" in str(parameters.get("objective")) else None
    data = lightgbm.Dataset(features, labels, categorical_feature=[5], group=group)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": 1, "num_leaves": 15, **parameters}
    return lightgbm.train(settings, data, rounds)


def xgboost_model(missing: bool = True, rounds: int = 8, **parameters: Any) -> xgboost.Booster:
    """Train a small XGBoost model whose last feature is categorical."""
    features, labels = training_data(missing)
    positive = labels + (parameters.get("objective") == "reg:gamma")
    data = xgboost.DMatrix(features, positive, feature_types=_TYPES, enable_categorical=True)
    if "rank" in str(parameters.get("objective")):
        data.set_group([50] * (ROWS // 50))
    settings = {"objective": "binary:logistic", "seed": 1, "nthread": 1, "max_depth": 4, **parameters}
    return xgboost.train(settings, data, rounds)


def xgboost_matrix(features: NDArray[np.float32]) -> xgboost.DMatrix:
    """Return rows as XGBoost reads them, with the last feature as a category."""
    return xgboost.DMatrix(features, feature_types=_TYPES, enable_categorical=True)


def _lightgbm_cases() -> Iterator[tuple[str, Callable[[], tuple[Any, Raw]]]]:
    for name, parameters in {
        "binary": {},
        "zero as missing": {"zero_as_missing": True},
        "no missing values": {"use_missing": False},
        "one-hot categories": {"max_cat_to_onehot": 50},
        "dart": {"boosting": "dart"},
        "lambdarank": {"objective": "lambdarank"},
        "poisson": {"objective": "poisson"},
        "l1": {"objective": "regression_l1"},
        "a single leaf": {"min_data_in_leaf": 1_900},
        "64 leaves": {"num_leaves": 64, "min_data_in_leaf": 1},
        "200 leaves": {"num_leaves": 200, "min_data_in_leaf": 1},
    }.items():
        for missing in (True, False):

            def model(parameters: dict[str, Any] = parameters, missing: bool = missing) -> tuple[Any, Raw]:
                booster = lightgbm_model(missing, **parameters)
                return booster, lambda rows: booster.predict(rows, raw_score=True)

            yield f"LightGBM {name}{', NaN' if missing else ''}", model


def _xgboost_cases() -> Iterator[tuple[str, Callable[[], tuple[Any, Raw]]]]:
    for name, parameters in {
        "logistic": {},
        "one-hot categories": {"max_cat_to_onehot": 50},
        "dart": {"booster": "dart", "rate_drop": 0.5},
        "gamma": {"objective": "reg:gamma"},
        "cox": {"objective": "survival:cox"},
        "ndcg": {"objective": "rank:ndcg"},
        "pruned": {"tree_method": "approx", "gamma": 1},
        "parallel trees": {"num_parallel_tree": 3, "subsample": 0.5},
        "large trees": {"grow_policy": "lossguide", "max_leaves": 90, "max_depth": 0, "gamma": 0.1},
    }.items():
        for missing in (True, False):

            def model(parameters: dict[str, Any] = parameters, missing: bool = missing) -> tuple[Any, Raw]:
                booster = xgboost_model(missing, **parameters)
                return booster, lambda rows: booster.predict(xgboost_matrix(rows), output_margin=True)

            yield f"XGBoost {name}{', NaN' if missing else ''}", model


def _sklearn_cases() -> Iterator[tuple[str, Callable[[], tuple[Any, Raw]]]]:
    for name, estimator in {
        "boosted": HistGradientBoostingClassifier(max_iter=8),
        "boosted, categories": HistGradientBoostingClassifier(max_iter=8, categorical_features=[3, 5]),
        "boosted, poisson": HistGradientBoostingRegressor(loss="poisson", max_iter=8),
        "boosted, quantile": HistGradientBoostingRegressor(loss="quantile", quantile=0.3, max_iter=8),
        "forest": RandomForestClassifier(7, min_samples_leaf=9, random_state=0),
        "extra trees": ExtraTreesRegressor(7, min_samples_leaf=9, random_state=0),
        "tree": DecisionTreeClassifier(max_depth=5, random_state=0),
        "regression tree": DecisionTreeRegressor(random_state=0),
    }.items():

        def model(estimator: Any = estimator) -> tuple[Any, Raw]:
            fitted = estimator.fit(*training_data(missing=True))
            if hasattr(fitted, "_raw_predict"):
                return fitted, lambda rows: fitted._raw_predict(rows)[:, 0]
            if hasattr(fitted, "predict_proba"):
                return fitted, lambda rows: fitted.predict_proba(rows)[:, 1]
            return fitted, fitted.predict

        yield f"scikit-learn {name}", model


CASES = dict([*_lightgbm_cases(), *_xgboost_cases(), *_sklearn_cases()])


def raw_scores(raw: Raw, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the learner's own scores before the link; it may warn of rows that it did not expect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(raw(features), np.float64)
