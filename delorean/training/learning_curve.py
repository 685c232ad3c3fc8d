"""Fits models on shares of the training part, to see whether more data would make a better one."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from delorean.evaluation.evaluation import LearningPoint
from delorean.evaluation.measure import PartScores
from delorean.evaluation.part_measurement import measure_part
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import TrainingError


def learning_curve(
    fit: Callable[[RankingData], PartScores], train: RankingData, validation: RankingData, settings: EvaluationSettings
) -> list[LearningPoint]:
    """Measure models of growing shares of the training part's contexts on the validation part.

    Each share contains the smaller ones. Fitting stops once `settings.learning_curve_seconds` have passed, and a share
    whose labels are all of one class is left out, so there may be fewer points than shares.

    fit: fits a model on part of the training part, and returns what scores a part
    """
    order = np.random.default_rng(settings.seed).permutation(len(train))
    settings_of_points = EvaluationSettings(
        at=settings.at, cluster=settings.cluster, level=settings.level, replicates=settings.replicates
    )
    points: list[LearningPoint] = []
    began = perf_counter()
    for share in settings.learning_curve:
        if perf_counter() - began > settings.learning_curve_seconds:
            break
        part = train.take(np.sort(order[: max(1, round(share * len(train)))]))
        started = perf_counter()
        try:
            score = fit(part)
        except TrainingError:  # too small a share has labels of one class only
            continue
        seconds = perf_counter() - started
        metrics = measure_part(score(validation), validation, settings_of_points).metrics
        points.append(LearningPoint(share, len(part), round(seconds, 3), metrics))
    return points
