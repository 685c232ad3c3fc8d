"""Trees of every learner: the same leaves and the same sums, on thresholds, beside them, and for special values."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import tree_learners
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from tree_learners import CASES, probing_rows, training_data, walked

from delorean.scoring.conversion import trees_of
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.rank_kernels import rank_block, score_ranks
from delorean.scoring.tree_kernels import fill_block, walk_trees
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble, largest_float32
from delorean.scoring.trees_onnx import trees_to_onnx
from schemas.errors import TrainingError


def converted(model: Any) -> TreeEnsemble:
    trees = trees_of(model)
    assert trees is not None
    return trees


def same_bits(a: Any, b: Any) -> bool:
    return bool((np.asarray(a, np.float32).view(np.uint32) == np.asarray(b, np.float32).view(np.uint32)).all())


def accepted(name: str, rows: np.ndarray) -> np.ndarray:
    """Return the rows that the learner itself scores: XGBoost and most of scikit-learn reject infinities."""
    boosted = name.startswith(("LightGBM", "scikit-learn boosted")) and "categories" not in name
    return rows if boosted or name.startswith("LightGBM") else rows[~np.isinf(rows).any(axis=1)]


@pytest.mark.parametrize("name", CASES)
def test_trees_kernels_and_onnx_have_the_bits_of_the_learners_own_sums(name: str) -> None:
    model, raw = CASES[name]()
    trees = converted(model)
    rows = probing_rows(trees)
    plain = replace(trees, link="identity", scale=1.0)
    expected = walked(plain, rows)
    own = accepted(name, rows)
    learned = tree_learners.raw_scores(raw, own)
    assert (walked(plain, own) == learned).all(), "the plain walk differs from the learner"
    scorer = TreeScorer(plain)
    assert same_bits(scorer.score(rows), expected)
    assert same_bits(np.concatenate([scorer.score(rows[i : i + 3]) for i in range(0, len(rows), 3)]), expected)
    assert same_bits(OnnxScorer(trees_to_onnx(plain)).score(rows), expected)


@pytest.mark.parametrize(
    ("model", "own"),
    [
        (lambda: tree_learners.lightgbm_model(sigmoid=0.7), lambda m, x: m.predict(x)),
        (lambda: tree_learners.lightgbm_model(objective="cross_entropy"), lambda m, x: m.predict(x)),
        (lambda: tree_learners.lightgbm_model(objective="tweedie"), lambda m, x: m.predict(x)),
        (
            lambda: tree_learners.lightgbm_model(boosting="rf", bagging_freq=1, bagging_fraction=0.5),
            lambda m, x: m.predict(x),
        ),
        (lambda: tree_learners.xgboost_model(), lambda m, x: m.predict(tree_learners.xgboost_matrix(x))),
        (
            lambda: tree_learners.xgboost_model(objective="reg:tweedie"),
            lambda m, x: m.predict(tree_learners.xgboost_matrix(x)),
        ),
        (
            lambda: HistGradientBoostingClassifier(max_iter=8).fit(*training_data(True)),
            lambda m, x: m.predict_proba(x)[:, 1],
        ),
    ],
    ids=["sigmoid", "cross entropy", "tweedie", "random forest", "xgboost logistic", "xgboost tweedie", "scikit-learn"],
)
def test_scores_after_the_link_are_the_learners_within_float32s_last_bits(model: Any, own: Any) -> None:
    fitted = model()
    trees = converted(fitted)
    rows = training_data(True)[0]
    ours, theirs = TreeScorer(trees).score(rows), np.asarray(own(fitted, rows))
    few = 4 if trees.single else 1  # XGBoost's own exp is of float32
    assert (np.abs(ours - theirs.astype(np.float32)) <= few * np.spacing(ours)).all()
    assert (np.abs(OnnxScorer(trees_to_onnx(trees)).score(rows) - ours) <= np.spacing(ours)).all()


def test_wrappers_of_scikit_learns_kind_are_converted_as_their_boosters() -> None:
    features, labels = training_data(True)
    ranker = lightgbm.LGBMRanker(n_estimators=5, verbose=-1, n_jobs=1)
    ranker.fit(features, labels, group=[100] * 20)
    assert (walked(converted(ranker), features[:50]) == ranker.predict(features[:50])).all()
    classifier = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(features, labels)
    ours = TreeScorer(converted(classifier)).score(features)
    assert np.allclose(ours, classifier.predict_proba(features)[:, 1], rtol=1e-6, atol=0)


def test_only_trees_up_to_the_best_iteration_are_converted() -> None:
    features, labels = training_data(True)
    noise = np.random.default_rng(0).integers(0, 2, len(labels))
    data = lightgbm.Dataset(features, labels)
    stopping = [lightgbm.early_stopping(3, verbose=False)]
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1, "learning_rate": 1.0},
        data, 50, valid_sets=[lightgbm.Dataset(features, noise, reference=data)], callbacks=stopping,
        keep_training_booster=True,
    )  # fmt: skip
    assert converted(booster).trees == booster.best_iteration < booster.current_iteration()
    assert (walked(converted(booster), features[:50]) == booster.predict(features[:50], raw_score=True)).all()
    early = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1, "eta": 1.0, "num_parallel_tree": 2},
        xgboost.DMatrix(features, labels), 50, evals=[(xgboost.DMatrix(features, noise), "v")],
        early_stopping_rounds=3, verbose_eval=False,
    )  # fmt: skip
    assert converted(early).trees == 2 * (early.best_iteration + 1) < 2 * early.num_boosted_rounds()
    best = early.predict(
        xgboost.DMatrix(features[:50]), output_margin=True, iteration_range=(0, early.best_iteration + 1)
    )
    assert (walked(converted(early), features[:50]) == best).all()


def many_classes() -> tuple[np.ndarray, np.ndarray]:
    features, _ = training_data(False)
    return features, np.arange(len(features)) % 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tree_learners.lightgbm_model(linear_tree=True, objective="regression"), "leaves are linear models"),
        (lambda: lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(*many_classes()), "has 3 classes"),
        (lambda: tree_learners.lightgbm_model(objective="regression", reg_sqrt=True), "objective is 'regression sqrt'"),
        (lambda: tree_learners.lightgbm_model(objective="cross_entropy_lambda"), "objective is 'cross_entropy_lambda'"),
        (lambda: xgboost.XGBClassifier(n_estimators=2).fit(*many_classes()), "several classes"),
        (lambda: tree_learners.xgboost_model(objective="binary:hinge"), "its objective is 'binary:hinge'"),
        (
            lambda: xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(*training_data(False)), 2),
            "its booster is linear",
        ),
        (
            lambda: xgboost.XGBRegressor(n_estimators=2, missing=0.0).fit(*training_data(False)),
            "reads 0.0 as missing",
        ),
    ],
)  # fmt: skip
def test_models_that_plain_trees_cannot_express_are_rejected_by_name(model: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=f"cannot be written as plain trees: .*{message}"):
        trees_of(model())


def test_other_models_have_no_trees() -> None:
    features, labels = training_data(False)
    assert trees_of(LogisticRegression().fit(features, labels)) is None
    assert trees_of(HistGradientBoostingClassifier(max_iter=2).fit(*many_classes())) is None
    assert trees_of(object()) is None


@given(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
def test_a_float32_is_at_most_a_rounded_threshold_exactly_where_it_is_at_most_the_double(t: float, x: float) -> None:
    rounded = largest_float32(np.array([t]))[0]
    with np.errstate(over="ignore"):
        above = np.nextafter(rounded, np.float32(np.inf))
    for value in (np.float32(x), rounded, above):
        assert (value <= rounded) == (float(value) <= t)


def test_layouts_of_rows_compile_nothing_anew() -> None:
    trees = converted(tree_learners.lightgbm_model())
    scorer, rows = TreeScorer(trees), training_data(True)[0]
    kernels = (fill_block, rank_block, score_ranks, walk_trees)
    expected, compiled = scorer.score(rows), [len(kernel.signatures) for kernel in kernels]
    assert all(compiled)
    read_only = rows.copy()
    read_only.flags.writeable = False
    for same in (
        np.asfortranarray(rows),
        read_only,
        np.repeat(rows, 2, axis=0)[::2],
        np.repeat(rows, 2, axis=1)[:, ::2],
    ):
        assert same_bits(scorer.score(same), expected)
        assert same_bits(scorer.score(same[:1]), expected[:1])
    assert [len(kernel.signatures) for kernel in kernels] == compiled


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "SCORING.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(example, {})


@pytest.mark.parametrize(
    "objective", ["reg:absoluteerror", "reg:quantileerror", "reg:squaredlogerror", "rank:pairwise"]
)
def test_other_objectives_of_xgboost_have_its_bits_too(objective: str) -> None:
    parameters = {"quantile_alpha": 0.3} if "quantile" in objective else {}
    booster = tree_learners.xgboost_model(objective=objective, **parameters)
    rows = training_data(True)[0][:200]
    assert same_bits(TreeScorer(converted(booster)).score(rows), booster.predict(tree_learners.xgboost_matrix(rows)))


@pytest.mark.parametrize("objective", ["huber", "fair", "quantile", "mape", "rank_xendcg", "gamma"])
def test_other_objectives_of_lightgbm_have_its_bits_too(objective: str) -> None:
    features, labels = training_data(True)
    booster = lightgbm.train(
        {"objective": objective, "verbose": -1, "num_threads": 1, "seed": 1},
        lightgbm.Dataset(features, labels + (objective == "gamma"), group=[50] * 40 if "rank" in objective else None),
        8,
    )
    ours, theirs = TreeScorer(converted(booster)).score(features), booster.predict(features).astype(np.float32)
    assert (np.abs(ours - theirs) <= (np.spacing(theirs) if objective == "gamma" else 0)).all()
