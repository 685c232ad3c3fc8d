"""Every kind of scikit-learn learner either scores as ONNX as it was fitted, missing values included, or is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.training.agreement import check_missing_values, refuse_disagreement
from delorean.training.missing_values import takes_missing_values, with_imputer, with_missing_values
from delorean.training.onnx_model import refuse_unsupported, to_onnx
from schemas.errors import PackageError, TrainingError

USED = [  # take missing values as they are
    HistGradientBoostingClassifier(max_iter=20, random_state=0),
    HistGradientBoostingRegressor(max_iter=20, random_state=0),
    RandomForestClassifier(10, random_state=0),
    RandomForestClassifier(10, random_state=0, criterion="entropy", class_weight="balanced"),
    RandomForestRegressor(10, random_state=0),
    ExtraTreesClassifier(10, random_state=0),
    ExtraTreesRegressor(10, random_state=0),
    DecisionTreeClassifier(random_state=0),
    DecisionTreeRegressor(random_state=0),
    ExtraTreeClassifier(random_state=0),
    BaggingClassifier(DecisionTreeClassifier(max_depth=3), random_state=0),
    make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)),
    make_pipeline(SimpleImputer(strategy="median"), SVC()),
    Pipeline([("impute", SimpleImputer()), ("model", GradientBoostingClassifier(n_estimators=10))]),
    with_imputer(SGDClassifier(random_state=0), "median"),
    with_imputer(KNeighborsClassifier(), "most_frequent"),
]
REFUSE_MISSING = [
    LogisticRegression(),
    GradientBoostingClassifier(n_estimators=10, random_state=0),
    GradientBoostingRegressor(n_estimators=10, random_state=0),
    AdaBoostClassifier(n_estimators=10, random_state=0),
    SVC(),
    SVC(probability=True, random_state=0),
    SVC(kernel="linear"),
    NuSVC(),
    LinearSVC(random_state=0),
    SVR(),
    LinearSVR(random_state=0),
    SGDClassifier(random_state=0),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDRegressor(random_state=0),
    Perceptron(random_state=0),
    RidgeClassifier(),
    Ridge(),
    LinearRegression(),
    ElasticNet(alpha=0.01),
    PoissonRegressor(),
    GaussianNB(),
    BernoulliNB(),
    KNeighborsClassifier(),
    KNeighborsRegressor(),
    MLPClassifier((8,), max_iter=30, random_state=0),
    MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0),
    CalibratedClassifierCV(LinearSVC(random_state=0)),
    VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft", flatten_transform=False),
    StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
    make_pipeline(MinMaxScaler(), SVC()),
]


@pytest.fixture(scope="module")
def rows() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(3)
    features = random.normal(size=(500, 5)).astype(np.float32)
    return features, (features[:, 0] + features[:, 1] * 0.5 + random.normal(size=500) * 0.3 > 0).astype(np.int64)


def fit(model: Any, features: NDArray[np.float32], wanted: NDArray[np.int64]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)  # scikit-learn's plans for its parameters
        return clone(model).fit(features, wanted)


@pytest.mark.parametrize("model", USED, ids=str)
@pytest.mark.parametrize("complete", [True, False], ids=["fitted complete", "fitted with missing values"])
def test_missing_values_score_as_in_the_fitted_model(
    model: Any, complete: bool, rows: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    features, wanted = rows
    incomplete = features.copy()
    incomplete[np.random.default_rng(4).random(features.shape) < 0.15] = np.nan
    fitted = fit(model, features if complete else incomplete, wanted)
    refuse_unsupported(model)
    scorer = OnnxScorer(to_onnx(fitted, 5))
    refuse_disagreement(scorer, fitted, features)
    refuse_disagreement(scorer, fitted, incomplete)
    assert check_missing_values(scorer, fitted, features) == "used"


@pytest.mark.parametrize("model", REFUSE_MISSING, ids=str)
def test_models_that_take_no_missing_values_agree_on_the_others_and_say_so(
    model: Any, rows: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    refuse_unsupported(model)
    fitted = fit(model, *rows)
    scorer = OnnxScorer(to_onnx(fitted, 5))
    refuse_disagreement(scorer, fitted, rows[0])
    assert check_missing_values(scorer, fitted, rows[0]) == "refused"


@pytest.mark.parametrize(
    "model",
    [
        DummyClassifier(),
        NearestCentroid(),
        SimpleImputer(),
        make_pipeline(SimpleImputer(), NearestCentroid()),
        make_pipeline(SimpleImputer(), StandardScaler()),
        Pipeline([("nothing", "passthrough"), ("model", LogisticRegression())]),
        "not a model",
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_by_name_before_it_is_fitted(model: Any) -> None:
    with pytest.raises(TrainingError, match=r"cannot be written as ONNX: .* → use a scikit-learn model"):
        refuse_unsupported(model)


def test_a_model_whose_onnx_form_differs_is_refused(rows: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    fitted = fit(LinearDiscriminantAnalysis(), *rows)  # skl2onnx 1.20 writes other probabilities
    with pytest.raises(PackageError, match="disagrees with LinearDiscriminantAnalysis .* package a model that ONNX"):
        refuse_disagreement(OnnxScorer(to_onnx(fitted, 5)), fitted, rows[0])


def test_a_disagreement_on_missing_values_alone_says_to_impute(
    rows: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    fitted = fit(RandomForestClassifier(10, random_state=0), *rows)
    for tree in fitted.estimators_:
        state = tree.tree_.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"]["missing_go_to_left"] ^= 1
        other = tree.tree_.__reduce__()
        tree.tree_ = other[0](*other[1])
        tree.tree_.__setstate__(state)
    flipped = OnnxScorer(to_onnx(fitted, 5))
    again = fit(RandomForestClassifier(10, random_state=0), *rows)
    refuse_disagreement(flipped, again, rows[0])
    with pytest.raises(PackageError, match="put an imputer before it: impute = "):
        check_missing_values(flipped, again, rows[0])


def test_rows_lack_each_feature_and_all() -> None:
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    missing = np.isnan(with_missing_values(features))
    assert {tuple(row) for row in missing.tolist()} == {
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (True, True, True),
    }
    wide = with_missing_values(np.zeros((100, 3_000), dtype=np.float32))
    assert wide.shape == (3_001, 3_000)
    assert takes_missing_values(fit(HistGradientBoostingClassifier(max_iter=2), features, np.array([0, 1])), 3)
