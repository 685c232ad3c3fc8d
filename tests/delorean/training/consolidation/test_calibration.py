"""Scores as probabilities: fitted as scikit-learn does, applied by our own arithmetic, and never against an order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from benchmarks.task_lists import NAMES, task_parts, task_set
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.split import SplitParts
from delorean.scoring.calibration import IsotonicCalibration, SigmoidCalibration, calibrated
from delorean.training.consolidation.calibration import fit_calibrations, fit_isotonic, fit_sigmoid
from delorean.training.consolidation.settings import Consolidation
from delorean.training.fitting import train
from delorean.training.learners.lightgbm import LightGBM
from schemas.errors import PackageError, TrainingError

TASKS = task_set()
SCORES = st.floats(-50, 50, width=32)
APART = st.integers(-51_200, 51_200).map(lambda n: n / 1024)  # scikit-learn takes closer ones for equal


@st.composite
def labelled(
    draw: st.DrawFn, of: st.SearchStrategy[float] = SCORES
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    scores = draw(st.lists(st.one_of(of, st.sampled_from([-1.0, 0.0, 2.0])), min_size=2, max_size=60))
    positive = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    weights = draw(st.lists(st.floats(0.1, 10), min_size=len(scores), max_size=len(scores)))
    positive[:2] = [True, False]
    return np.float32(scores), np.array(positive), np.array(weights)


@given(labelled(APART), st.lists(APART, min_size=1, max_size=20))
def test_isotonic_probabilities_are_scikit_learns(data: Any, others: list[float]) -> None:
    scores, positive, weights = data
    ours = fit_isotonic(scores, positive, weights)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    theirs.fit(scores.astype(np.float64), positive, sample_weight=weights)
    at = np.concatenate([scores, np.float32(others)])
    assert ours.probabilities(at) == pytest.approx(theirs.predict(at.astype(np.float64)), abs=1e-6)


def test_a_sigmoid_is_scikit_learns_where_scores_rank_rightly() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(3, 20, 4_000).astype(np.float32)
    positive = random.random(4_000) < 1 / (1 + np.exp(-(0.1 * scores - 1)))
    weights = random.uniform(0.5, 2, 4_000)
    ours = fit_sigmoid(scores, positive, weights)
    theirs = _SigmoidCalibration().fit(scores.astype(np.float64), positive.astype(np.int64), weights)
    assert (ours.slope, ours.intercept) == pytest.approx((-theirs.a_, -theirs.b_), rel=1e-3)
    assert ours.probabilities(scores) == pytest.approx(theirs.predict(scores.astype(np.float64)), abs=1e-4)


def test_scores_that_rank_in_reverse_get_one_probability() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=500).astype(np.float32)
    positive = random.random(500) < 1 / (1 + np.exp(3 * scores))
    sigmoid = fit_sigmoid(scores, positive, np.ones(500))
    assert sigmoid.slope == 0
    assert np.unique(sigmoid.probabilities(scores)) == pytest.approx([positive.mean()], abs=0.01)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_sigmoid])
@given(labelled(), st.lists(st.one_of(SCORES, st.sampled_from([np.inf, -np.inf, 3e38])), min_size=2, max_size=40))
def test_a_higher_score_never_has_a_lower_probability(fit: Any, data: Any, others: list[float]) -> None:
    scores, positive, weights = data
    at = np.sort(np.concatenate([scores, np.nextafter(scores, np.float32(np.inf)), np.float32(others)]))
    probabilities = fit(scores, positive, weights).probabilities(at)
    assert (np.diff(probabilities) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


@given(labelled(), st.integers(0, 59))
def test_a_probability_has_the_same_bits_whatever_is_calibrated_with_it(data: Any, row: int) -> None:
    scores, positive, weights = data
    row %= len(scores)
    for fit in (fit_isotonic, fit_sigmoid):
        each = fit(scores, positive, weights)
        assert (
            each.probabilities(scores)[row : row + 1].tobytes() == each.probabilities(scores[row : row + 1]).tobytes()
        )


def test_a_task_without_both_kinds_of_items_is_named() -> None:
    parts = task_parts((5, 5, 5, 5), 5)
    scores = np.zeros(len(parts.validation.labels), np.float32)
    unlabelled = replace(parts.validation, labels=np.zeros_like(parts.validation.labels))
    with pytest.raises(TrainingError, match="task 'homepage' cannot be calibrated: 0 of its 100 items"):
        fit_calibrations(scores, unlabelled, TASKS, "isotonic")
    assert fit_calibrations(scores, unlabelled, TASKS, "none") == {}


def test_malformed_calibrations_are_rejected() -> None:
    double = np.float64
    cases: list[Any] = [
        lambda: SigmoidCalibration(-1.0, 0.0),
        lambda: SigmoidCalibration(float("nan"), 0.0),
        lambda: SigmoidCalibration(1.0, float("inf")),
        lambda: IsotonicCalibration(double([0, 1]), double([0.5, 0.4])),
        lambda: IsotonicCalibration(double([1, 0]), double([0.4, 0.5])),
        lambda: IsotonicCalibration(double([0, 0]), double([0.4, 0.5])),
        lambda: IsotonicCalibration(double([0, np.nan]), double([0.4, 0.5])),
        lambda: IsotonicCalibration(double([0, 1]), double([0.4, np.nan])),
        lambda: IsotonicCalibration(double([0, 1]), double([0.4, 1.5])),
        lambda: IsotonicCalibration(double([0, 1]), double([-0.1, 0.5])),
        lambda: IsotonicCalibration(double([0, 1]), double([0.5])),
        lambda: IsotonicCalibration(double([]), double([])),
        lambda: IsotonicCalibration(np.float32([0]), double([0.5])),
    ]
    for build in cases:
        with pytest.raises(PackageError, match="the calibration is malformed"):
            build()


@pytest.fixture(scope="module")
def parts() -> SplitParts:
    return task_parts((60, 60, 60, 60), 150, adverse=0.3)


@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
def test_calibration_lowers_the_error_of_every_task_and_is_reported(parts: SplitParts, method: Any) -> None:
    """The scores are probabilities of a model that learned with half of the negatives, so they are far too high."""
    weights = np.where(parts.train.positive, np.float32(4), np.float32(1)).astype(np.float32)
    skewed = replace(parts, train=replace(parts.train, own_item_weights=weights))
    learner = LightGBM("binary", {"num_leaves": 7}, rounds=30, stop_after=0, threads=1)
    settings = Consolidation(calibration=method, compare=())
    evaluation = EvaluationSettings(at=(10,), replicates=200, repeats=1)
    trained = train(skewed, model=learner, tasks=TASKS, evaluation=evaluation, consolidation=settings)
    assert trained.report.consolidation is not None
    changes = trained.report.consolidation.calibrations
    assert [change.task for change in changes] == list(NAMES)
    for change in changes:
        assert change.before is not None
        assert change.after is not None
        assert change.after.error < change.before.error / 2
        assert change.after.mean_score == pytest.approx(change.after.positives, abs=0.03)


def test_calibrations_are_fitted_on_the_validation_part_alone(parts: SplitParts) -> None:
    learner = LightGBM("lambdarank", {"num_leaves": 7}, rounds=12, stop_after=0, threads=1)
    settings = Consolidation(calibration="isotonic", compare=())
    evaluation = EvaluationSettings(at=(10,), replicates=100, repeats=1)
    trained = train(parts, model=learner, tasks=TASKS, evaluation=evaluation, consolidation=settings)
    expected = fit_calibrations(trained.served.scores(parts.validation), parts.validation, TASKS, "isotonic")
    assert trained.calibrations == expected
    unlike = replace(parts, test=parts.validation)
    again = train(unlike, model=learner, tasks=TASKS, evaluation=evaluation, consolidation=settings)
    assert again.calibrations == expected


def test_scores_of_tasks_without_a_calibration_have_no_probability() -> None:
    calibrations = {"search": SigmoidCalibration(1.0, 0.0)}
    result = calibrated(np.float32([0, 0, 1]), np.array([0, 1, 1]), ("homepage", "search"), calibrations)
    assert np.isnan(result[0])
    assert result[1:] == pytest.approx([0.5, 1 / (1 + np.exp(-1))])
