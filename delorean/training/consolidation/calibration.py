"""Fits what turns a task's scores into probabilities, on the validation part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delorean.evaluation.by_context import are_probabilities
from delorean.evaluation.calibration import Calibration, calibration
from delorean.evaluation.groups import clusters_of
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from delorean.scoring.calibration import IsotonicCalibration, SigmoidCalibration, TaskCalibration
from delorean.tasks.task_set import TaskSet
from delorean.training.consolidation.result import CalibrationChange
from delorean.training.consolidation.settings import CalibrationMethod
from delorean.training.consolidation.task_weights import item_rows
from delorean.training.served_model import numbers_of_contexts
from schemas.errors import TrainingError


def fit_calibrations(
    scores: NDArray[np.float32], validation: RankingData, tasks: TaskSet, method: CalibrationMethod
) -> dict[str, TaskCalibration]:
    """Fit a calibration for each task.

    scores: (items,) of the validation part

    Raises TrainingError, which names the task, for one whose items are all positive, or none.
    """
    if method == "none":
        return {}
    numbers = numbers_of_contexts(validation.contexts, tasks)
    weights = np.ones(len(scores)) if validation.item_weights is None else validation.item_weights
    calibrations: dict[str, TaskCalibration] = {}
    for number, name in enumerate(tasks.names):
        rows = item_rows(validation, np.flatnonzero(numbers == number)) & (weights > 0)
        positive = validation.positive[rows]
        if positive.all() or not positive.any():
            raise TrainingError.because(
                f"task '{name}' cannot be calibrated: {int(positive.sum())} of its {len(positive)} items of the "
                "validation part are positive, expected some and not all",
                'give it more label data, or write calibration = "none"',
            )
        fit = fit_isotonic if method == "isotonic" else fit_sigmoid
        calibrations[name] = fit(scores[rows], positive, weights[rows])
    return calibrations


def fit_isotonic(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> IsotonicCalibration:
    """Fit probabilities that never descend, by weighted least squares (pool adjacent violators, Barlow et al. 1972).

    scores, positive, weights: (items,), weights above 0
    """
    from scipy.optimize import isotonic_regression

    values, codes = np.unique(scores.astype(np.float64), return_inverse=True)
    totals = np.bincount(codes, weights=weights)
    shares = np.bincount(codes, weights=weights * positive) / totals
    fitted = np.clip(isotonic_regression(shares, weights=totals).x, 0, 1)
    fitted = np.maximum.accumulate(fitted)  # equal values of a block may differ in their last bit
    # Of a run of equal probabilities, the ends decide.
    inner = np.zeros(len(values), np.bool_)
    inner[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    return IsotonicCalibration(values[~inner], fitted[~inner])


def fit_sigmoid(
    scores: NDArray[np.float32], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> SigmoidCalibration:
    """Fit a sigmoid by maximum likelihood, with Platt's targets, which keep it from certainty (Platt 1999).

    The slope is at least 0: scores that rank in reverse get one probability for all.

    scores, positive, weights: (items,), weights above 0
    """
    from scipy.optimize import minimize

    positives, negatives = float(weights[positive].sum()), float(weights[~positive].sum())
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    finite = np.isfinite(scores)
    center = float(np.mean(scores[finite], dtype=np.float64)) if finite.any() else 0.0
    spread = float(np.std(scores[finite], dtype=np.float64)) if finite.any() else 0.0
    x = (np.nan_to_num(scores.astype(np.float64)) - center) / (spread or 1.0)
    total = positives + negatives

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        sums = parameters[0] * x + parameters[1]
        losses = np.logaddexp(0, sums) - targets * sums
        errors = weights * (np.exp(-np.logaddexp(0, -sums)) - targets)
        return float((weights * losses).sum() / total), np.array([(errors * x).sum(), errors.sum()]) / total

    start = np.array([1.0, np.log((positives + 1) / (negatives + 1))])
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1_000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], options=options)
    slope = float(found.x[0]) / (spread or 1.0)
    return SigmoidCalibration(slope, float(found.x[1]) - slope * center)


def calibration_changes(
    scores: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    test: RankingData,
    tasks: TaskSet,
    settings: EvaluationSettings,
) -> tuple[CalibrationChange, ...]:
    """Measure how well scores and probabilities are calibrated on the test part, task by task."""
    numbers = numbers_of_contexts(test.contexts, tasks)
    changes = []
    for number, name in enumerate(tasks.names):
        rows = np.flatnonzero(numbers == number)
        part, items = test.take(rows), item_rows(test, rows)
        before, after = (_measured(values[items], part, settings) for values in (scores, probabilities))
        changes.append(CalibrationChange(name, before, after))
    return tuple(changes)


def _measured(values: NDArray[np.float32], part: RankingData, settings: EvaluationSettings) -> Calibration | None:
    if not are_probabilities(values):
        return None
    clusters = clusters_of(part, settings.cluster)
    return calibration(values, part, settings.calibration_bins, clusters, settings.bootstrap)
