"""Describes what is known about a model's quality, and the report of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from delorean.display.description import describes
from delorean.display.descriptions import consolidation
from delorean.display.parts import Facts, IntervalMark, Note, Part, Table
from delorean.evaluation.estimate import Estimate
from delorean.evaluation.evaluation import Evaluation
from delorean.evaluation.importances import Importance
from delorean.evaluation.part_measurement import GroupMeasurement
from delorean.training.fitting import TrainedModel
from delorean.training.report import TrainingReport

_MAIN: Final = ("ndcg@10", "ndcg@5", "ndcg@20")  # the first of these that was measured describes groups


def shown(estimate: Estimate) -> str | None:
    """Return a value with its interval, as text; None where nothing was measured.

    >>> shown(Estimate(0.5, 0.45, 0.55, 100))
    '0.5000 (0.4500 to 0.5500)'
    """
    if estimate.value is None:
        return None
    interval = "" if estimate.low is None else f" ({estimate.low:.4f} to {estimate.high:.4f})"
    return f"{estimate.value:.4f}{interval}"


def main_metric(metrics: Mapping[str, Estimate]) -> str:
    """Return the metric that describes groups: NDCG@10, or another NDCG."""
    return next((name for name in (*_MAIN, *metrics) if name in metrics), "mrr")


def marks(estimates: Sequence[Estimate]) -> list[IntervalMark | None]:
    """Draw estimates on one scale."""
    ends = [end for each in estimates for end in (each.value, each.low, each.high) if end is not None]
    start, end = min(ends, default=0.0), max(ends, default=1.0)
    return [
        None if each.value is None else IntervalMark(each.value, each.low, each.high, start, end) for each in estimates
    ]


def _evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(evaluation)
    return document


@describes(Evaluation, _evaluation_document, headline=lambda evaluation: _headline(evaluation))
def _evaluation(evaluation: Evaluation) -> Iterator[Part]:
    drawn = "" if evaluation.cluster is None else f", all those of one {evaluation.cluster} together"
    yield Note(f"{evaluation.level:.0%} intervals by the bootstrap over contexts{drawn}.")
    yield from _metrics(evaluation)
    yield Table(_other_labels(evaluation), "by labels that the model has not learned, on the test part")
    for part, measurement in evaluation.parts.items():
        for by in dict.fromkeys(group.by for group in measurement.groups):
            groups = [group for group in measurement.groups if group.by == by]
            yield Table(_groups(groups) if len(groups) > 1 else [], f"{part} part by {by}")
    yield from _calibration(evaluation)
    yield Table(_importances(evaluation.encoders), "what encoders contribute, on the validation part", most=None)
    yield Table(_importances(evaluation.features), "what features contribute, on the validation part")
    yield from _learning_curve(evaluation)


def _headline(evaluation: Evaluation) -> str:
    metrics = evaluation.parts["test"].metrics
    name = main_metric(metrics)
    return f"evaluation: {name} {shown(metrics[name])} on {metrics[name].contexts:,} contexts of the test part"


def _metrics(evaluation: Evaluation) -> Iterator[Part]:
    parts = evaluation.parts
    names = dict.fromkeys(name for measurement in parts.values() for name in measurement.metrics)
    rows = []
    for name in names:
        row: dict[str, Any] = {"metric": name}
        row |= {part: shown(each.metrics[name]) for part, each in parts.items() if name in each.metrics}
        difference = evaluation.over_popularity.get("test", {}).get(name)
        row["over popularity"] = None if difference is None else shown(difference)
        rows.append(row)
    yield Table(rows, "metrics", most=None)


def _other_labels(evaluation: Evaluation) -> list[dict[str, Any]]:
    measured = evaluation.parts["test"].other_labels
    return [
        {"label": label, **{name: shown(estimate) for name, estimate in metrics.items()}}
        for label, metrics in measured.items()
    ]


def _groups(groups: Sequence[GroupMeasurement]) -> list[dict[str, Any]]:
    name = main_metric(groups[0].metrics)
    estimates = [group.metrics[name] for group in groups]
    return [
        {
            "": group.group,
            "contexts": group.contexts,
            "items": group.items,
            "positives": group.positives,
            "measured": estimate.contexts,
            name: shown(estimate) if estimate.low is not None or estimate.value is None else f"{shown(estimate)}, few",
            "interval": mark,
        }
        for group, estimate, mark in zip(groups, estimates, marks(estimates), strict=True)
    ]


def _calibration(evaluation: Evaluation) -> Iterator[Part]:
    measured = evaluation.parts["test"].calibration
    if measured is None:
        return
    yield Note(
        f"Calibration on the test part: scores say {measured.mean_score:.4f} on average, {measured.positives:.4f} are "
        f"positive; expected calibration error {measured.error:.4f}"
    )
    rows = [
        {
            "items": each.items,
            "mean score": round(each.mean_score, 4),
            "positives": shown(each.positives),
            "interval": mark,
        }
        for each, mark in zip(measured.bins, marks([each.positives for each in measured.bins]), strict=True)
    ]
    yield Table(rows, "reliability", most=None)


def _importances(importances: Sequence[Importance]) -> list[dict[str, Any]]:
    ordered = sorted(importances, key=lambda each: -(each.ndcg_lost.value or 0.0))
    return [
        {
            "": each.name,
            "NDCG@10 lost": shown(each.ndcg_lost),
            "interval": mark,
            "mean |contribution|": None if each.contribution is None else round(each.contribution, 4),
        }
        for each, mark in zip(ordered, marks([each.ndcg_lost for each in ordered]), strict=True)
    ]


def _learning_curve(evaluation: Evaluation) -> Iterator[Part]:
    if not evaluation.learning_curve:
        return
    name = main_metric(evaluation.parts["validation"].metrics)
    whole = evaluation.parts["validation"].metrics[name]
    points = [(f"{point.share:.0%}", point.contexts, point.metrics[name]) for point in evaluation.learning_curve]
    rows = [
        {"share": share, "contexts": contexts, name: shown(estimate), "interval": mark}
        for (share, contexts, estimate), mark in zip(
            [*points, ("100%", None, whole)], marks([*(each[2] for each in points), whole]), strict=True
        )
    ]
    yield Table(rows, "learning curve, on the validation part")


def _report_document(report: TrainingReport) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(report)
    return document


@describes(TrainingReport, _report_document, headline=lambda report: f"training of {report.model}")
def _report(report: TrainingReport) -> Iterator[Part]:
    if report.consolidation is not None:
        yield from consolidation.parts(report.consolidation)
    rows = [{"": who, **msgspec.to_builtins(parts["test"])} for who, parts in report.metrics.items()]
    yield Table(rows, "on the test part")
    yield Table([{"part": name, **size} for name, size in report.sizes.items()], "sizes")
    yield Facts({"seconds": round(sum(report.seconds.values()), 1), "rounds": report.rounds})
    if report.evaluation is not None:
        yield from _evaluation(report.evaluation)
    else:
        yield Table([{"feature": name, "NDCG@10 lost": lost} for name, lost in report.importances.items()])


@describes(
    TrainedModel,
    lambda trained: _report_document(trained.report),
    headline=lambda trained: f"trained model: {trained.report.model}, {len(trained.names)} features",
)
def _trained(trained: TrainedModel) -> Iterator[Part]:
    yield from _report(trained.report)
