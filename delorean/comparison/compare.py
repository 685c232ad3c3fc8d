"""Compares two rankings of the same items, whatever made their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from delorean.comparison.examples import context_differences, lowest
from delorean.comparison.rank_agreement import RankAgreement, rank_agreement
from delorean.comparison.result import (
    OVERLAP_BINS,
    Agreement,
    Comparison,
    ContextDifference,
    GroupDifference,
    MetricDifference,
)
from delorean.comparison.settings import ComparisonSettings
from delorean.comparison.verdict import judge
from delorean.evaluation.bootstrap import ratios, simultaneous, weighted_means
from delorean.evaluation.by_context import are_probabilities, check_scores, measure_contexts
from delorean.evaluation.groups import clusters_of, groups_of
from delorean.evaluation.part_measurement import MetricSums, metric_sums
from delorean.evaluation.settings import Bootstrap
from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import ComparisonError


def compare_scores(
    candidate: NDArray[np.float32],
    production: NDArray[np.float32],
    part: RankingData,
    settings: ComparisonSettings | None = None,
    *,
    names: tuple[str, str] = ("candidate", "production"),
    data: str = "ranking data",
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two rankings of the same items.

    candidate, production: (items,) scores, the greatest first
    part: the contexts with their items and labels; features are not read
    names, data, notes: for the result

    Differences are paired by context, with intervals by the bootstrap over contexts or clusters. Of each group of
    contexts, the interval of the metric that decides is widened so that all groups' intervals hold together
    (Bonferroni); those of the other metrics are not.

    Raises ComparisonError for no contexts or an unknown metric, TrainingError for scores that are NaN or columns that
    do not exist.
    """
    settings = settings or ComparisonSettings()
    for scores in (candidate, production):
        check_scores(scores, len(part.labels))
    if len(part) == 0:
        raise ComparisonError.because("there are no contexts to compare on", "give label data with some")
    part = replace(part, features=part.features[:, :0], names=())
    sums = _metric_sums(candidate, production, part, settings)
    clusters = clusters_of(part, settings.evaluation.cluster)
    metrics = _differences(sums, np.arange(len(part)), clusters, settings.evaluation.bootstrap)
    groups = _groups(sums, part, clusters, settings)
    agreement = rank_agreement(candidate, production, part.offsets, settings.places)
    summary = _summary(agreement, part, clusters, settings)
    deciding = metrics[sums[0].names.index(settings.metric)].difference
    verdict, reasons = judge(deciding, groups, summary, settings)
    most_different, largest_losses = _examples((candidate, production), part, agreement, settings)
    return Comparison(
        *names,
        data=data,
        contexts=len(part),
        items=len(part.labels),
        metric=settings.metric,
        level=settings.evaluation.level,
        verdict=verdict,
        reasons=reasons,
        metrics=metrics,
        groups=groups,
        agreement=summary,
        most_different=most_different,
        largest_losses=largest_losses,
        notes=tuple(notes),
    )


def _metric_sums(
    candidate: NDArray[np.float32], production: NDArray[np.float32], part: RankingData, settings: ComparisonSettings
) -> tuple[MetricSums, MetricSums]:
    both = are_probabilities(candidate) and are_probabilities(production)
    ours, theirs = (
        metric_sums(each, part, settings.evaluation.at, probabilities=both) for each in (candidate, production)
    )
    if settings.metric not in ours.names:
        raise ComparisonError.unknown("metric", settings.metric, ours.names)
    return ours, theirs


def _differences(
    sums: tuple[MetricSums, MetricSums],
    rows: NDArray[np.int64],
    clusters: NDArray[np.int64] | None,
    bootstrap: Bootstrap,
) -> tuple[MetricDifference, ...]:
    """Estimate each metric of both sides, and their difference, on some contexts. Their denominators are equal."""
    ours, theirs = (each.numerators[rows] for each in sums)
    denominators = sums[0].denominators[rows]
    of_rows = None if clusters is None else np.unique(clusters[rows], return_inverse=True)[1]
    estimates = ratios(np.hstack([ours, theirs, ours - theirs]), np.tile(denominators, (1, 3)), of_rows, bootstrap)
    count = len(sums[0].names)
    return tuple(
        MetricDifference(name, estimates[i], estimates[count + i], estimates[2 * count + i])
        for i, name in enumerate(sums[0].names)
    )


def _groups(
    sums: tuple[MetricSums, MetricSums],
    part: RankingData,
    clusters: NDArray[np.int64] | None,
    settings: ComparisonSettings,
) -> tuple[GroupDifference, ...]:
    columns: dict[str, Mapping[str, NDArray[np.int64]]] = {by: groups_of(part, by) for by in settings.evaluation.by}
    together = simultaneous(settings.evaluation.bootstrap, sum(map(len, columns.values())))
    metric = sums[0].names.index(settings.metric)
    one = tuple(
        MetricSums((settings.metric,), each.numerators[:, [metric]], each.denominators[:, [metric]]) for each in sums
    )
    return tuple(
        GroupDifference(
            by,
            group,
            len(rows),
            _differences(sums, rows, clusters, settings.evaluation.bootstrap),
            _differences((one[0], one[1]), rows, clusters, together)[0].difference,
        )
        for by, values in columns.items()
        for group, rows in values.items()
    )


def _summary(
    agreement: RankAgreement, part: RankingData, clusters: NDArray[np.int64] | None, settings: ComparisonSettings
) -> Agreement:
    weights = np.ones(len(part)) if part.weights is None else part.weights
    values = np.stack([agreement.overlap, agreement.tau, agreement.changed], axis=1)
    overlap, tau, changed = weighted_means(values, part.weights, clusters, settings.evaluation.bootstrap)

    def share(chosen: NDArray[np.bool_]) -> float:
        return 1.0 if chosen.all() else float(np.average(chosen, weights=weights if weights.any() else None))

    measured = agreement.overlap[~np.isnan(agreement.overlap)]
    counts = np.histogram(np.clip(measured, 0, 1), OVERLAP_BINS, (0, 1))[0]
    return Agreement(
        settings.places,
        overlap,
        tau,
        changed,
        share(agreement.changed > 0),
        share(agreement.first_changed),
        share(agreement.same),
        tuple(counts.tolist()),
    )


def _examples(
    scores: tuple[NDArray[np.float32], NDArray[np.float32]],
    part: RankingData,
    agreement: RankAgreement,
    settings: ComparisonSettings,
) -> tuple[tuple[ContextDifference, ...], tuple[ContextDifference, ...]]:
    """Describe the contexts with the least overlap, and those where the candidate loses most of the metric.

    Where no context has the metric by itself, as with the AUC, losses are those of the NDCG.
    """
    ours, theirs = (measure_contexts(each, part, settings.evaluation.at) for each in scores)
    metric = settings.metric if settings.metric in ours.names else f"ndcg@{settings.evaluation.at[0]}"
    difference = ours[metric] - theirs[metric]
    different = lowest(agreement.overlap, settings.examples, 1 - 1e-12)
    losses = lowest(difference, settings.examples, 0.0)
    measures = agreement.overlap, difference, settings.places
    return context_differences(part, scores, different, *measures), context_differences(part, scores, losses, *measures)
