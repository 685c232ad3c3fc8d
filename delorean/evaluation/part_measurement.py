"""Measures scores on a part: every metric with its interval, for all contexts and for groups of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.evaluation.area import area_by_context
from delorean.evaluation.bootstrap import ratios
from delorean.evaluation.by_context import are_probabilities, check_scores, measure_contexts, summed_log_loss
from delorean.evaluation.calibration import Calibration, calibration
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.groups import clusters_of, groups_by_day, groups_of
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import TrainingError

DAY = "day since training"


class GroupMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metrics of the contexts that have one value of a column.

    by: the column, or "day since training"
    group: its value as text
    """

    by: str
    group: str
    contexts: int
    items: int
    positives: int
    metrics: Mapping[str, Estimate]


class PartMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well scores rank a part of a feature set.

    metrics: "ndcg@10", "recall@10" for each number of places; "mrr", "map" and "auc_by_context": means over contexts;
        "auc": over all items; "log_loss" of all items, where scores are probabilities
    groups: the same for each value of the columns that were chosen, and for each day since training
    calibration: None where scores are no probabilities
    other_labels: label that the model has not learned → how well its scores rank by this label, over the items that
        have it; values below 0 count as 0
    """

    metrics: Mapping[str, Estimate]
    groups: tuple[GroupMeasurement, ...] = ()
    calibration: Calibration | None = None
    other_labels: Mapping[str, Mapping[str, Estimate]] = {}


@dataclass(frozen=True)
class MetricSums:
    """Metrics as ratios of sums over contexts. numerators, denominators: (contexts, metrics)."""

    names: tuple[str, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]


def measure_part(
    scores: NDArray[np.float32],
    part: RankingData,
    settings: EvaluationSettings | None = None,
    since: datetime | None = None,
) -> PartMeasurement:
    """Measure scores on a part, with intervals, by group and by day.

    scores: (items,)
    since: the end of the training part, from which days are counted; None: days are not measured

    Raises TrainingError for scores that are NaN, and for columns that the part does not have.
    """
    settings = settings or EvaluationSettings()
    check_scores(scores, len(part.labels))
    part = replace(part, features=part.features[:, :0], names=())  # groups need not copy features
    groups = [(column, groups_of(part, column)) for column in settings.by]
    if since is not None:
        groups.append((DAY, groups_by_day(part, since)))
    probabilities, clusters = are_probabilities(scores), clusters_of(part, settings.cluster)
    return PartMeasurement(
        _estimates(scores, part, settings, probabilities=probabilities),
        tuple(
            _measure_group(by, group, (scores, part), rows, settings, probabilities=probabilities)
            for by, values in groups
            for group, rows in values.items()
        ),
        calibration(scores, part, settings.calibration_bins, clusters, settings.bootstrap) if probabilities else None,
        {name: _by_label(scores, part, labels, settings) for name, labels in part.other_labels.items()},
    )


def _by_label(
    scores: NDArray[np.float32], part: RankingData, labels: NDArray[np.float32], settings: EvaluationSettings
) -> dict[str, Estimate]:
    """Estimate the metrics by another label. labels: (items,), NaN where an item does not have it."""
    known = ~np.isnan(labels)
    relabelled = replace(
        part,
        items=part.items.filter(pa.array(known)),
        offsets=np.concatenate([[0], np.cumsum(known)])[part.offsets],
        labels=np.maximum(labels[known], np.float32(0)),
        features=part.features[known],
        own_item_weights=None if part.own_item_weights is None else part.own_item_weights[known],
        other_labels={},
    )
    return _estimates(scores[known], relabelled, settings, probabilities=False)


def _estimates(
    scores: NDArray[np.float32], part: RankingData, settings: EvaluationSettings, *, probabilities: bool
) -> dict[str, Estimate]:
    metrics = metric_sums(scores, part, settings.at, probabilities=probabilities)
    clusters = clusters_of(part, settings.cluster)
    values = ratios(metrics.numerators, metrics.denominators, clusters, settings.bootstrap, shares=True)
    return dict(zip(metrics.names, values, strict=True))


def differences(
    scores: NDArray[np.float32], others: NDArray[np.float32], part: RankingData, settings: EvaluationSettings
) -> dict[str, Estimate]:
    """Estimate by how much scores rank better than others on the same contexts; log loss: by how much it is greater.

    scores, others: (items,)
    """
    both = are_probabilities(scores) and are_probabilities(others)
    ours, theirs = (metric_sums(each, part, settings.at, probabilities=both) for each in (scores, others))
    # The denominators depend on labels and weights only, so they are equal.
    values = ratios(
        ours.numerators - theirs.numerators, ours.denominators, clusters_of(part, settings.cluster), settings.bootstrap
    )
    return dict(zip(ours.names, values, strict=True))


def metric_sums(
    scores: NDArray[np.float32], part: RankingData, at: Sequence[int], *, probabilities: bool
) -> MetricSums:
    """Return every metric as a ratio of sums over contexts, weighted by the contexts' weights.

    probabilities: whether the log loss is measured too
    """
    measured = measure_contexts(scores, part, at)
    weights = np.ones(len(part)) if part.weights is None else part.weights
    counted = ~np.isnan(measured.values)
    denominators = [*(counted * weights[:, np.newaxis]).T]
    numerators = [*np.where(counted, measured.values * weights[:, np.newaxis], 0).T]
    for numerator, denominator in _of_items(scores, part, weights, probabilities=probabilities):
        numerators.append(numerator)
        denominators.append(denominator)
    names = (*measured.names, "auc", *(("log_loss",) if probabilities else ()))
    return MetricSums(names, np.stack(numerators, axis=1), np.stack(denominators, axis=1))


def estimate_of(metric: str, scores: NDArray[np.float32], part: RankingData, settings: EvaluationSettings) -> Estimate:
    """Estimate one metric of a part. Raises TrainingError for one that these scores do not have, such as log_loss."""
    metrics = metric_sums(scores, part, settings.at, probabilities=are_probabilities(scores))
    if metric not in metrics.names:
        raise TrainingError.unknown("metric of these scores", metric, metrics.names)
    column = [metrics.names.index(metric)]
    clusters = clusters_of(part, settings.cluster)
    return ratios(
        metrics.numerators[:, column], metrics.denominators[:, column], clusters, settings.bootstrap, shares=True
    )[0]


def value_of(metric: str, scores: NDArray[np.float32], part: RankingData, at: Sequence[int]) -> float:
    """Return one metric of a part without its interval. Raises TrainingError where it cannot be measured."""
    check_scores(scores, len(part.labels))
    metrics = metric_sums(scores, part, at, probabilities=are_probabilities(scores))
    if metric not in metrics.names:
        raise TrainingError.unknown("metric of these scores", metric, metrics.names)
    column = metrics.names.index(metric)
    total = metrics.denominators[:, column].sum()
    if not total > 0:
        raise TrainingError.because(f"{metric} cannot be measured: no context of the part has what it needs")
    return float(metrics.numerators[:, column].sum() / total)


def _of_items(
    scores: NDArray[np.float32], part: RankingData, weights: NDArray[np.float64], *, probabilities: bool
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return numerators and denominators of the metrics over all items."""
    metrics = [area_by_context(scores, part)]
    if probabilities:
        losses, counts = summed_log_loss(scores, part)
        metrics.append((losses * weights, counts * weights))
    return metrics


def _measure_group(
    by: str,
    group: str,
    scored: tuple[NDArray[np.float32], RankingData],
    rows: NDArray[np.int64],
    settings: EvaluationSettings,
    *,
    probabilities: bool,
) -> GroupMeasurement:
    scores, part = scored
    inside = np.zeros(len(part), dtype=bool)
    inside[rows] = True
    chosen = part.take(rows)
    own_scores = scores[np.repeat(inside, np.diff(part.offsets))]
    measured = _estimates(own_scores, chosen, settings, probabilities=probabilities)
    return GroupMeasurement(by, group, len(chosen), len(chosen.labels), int(chosen.positive.sum()), measured)
