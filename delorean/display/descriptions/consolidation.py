"""Describes whether one model for several tasks is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from delorean.display.description import describes
from delorean.display.descriptions.rankers import bound_of, interval_mark
from delorean.display.parts import Note, Part, Table
from delorean.training.consolidation.result import METRIC, CalibrationChange, ConsolidationReport, SharingResult


def document(report: ConsolidationReport) -> dict[str, Any]:
    """The report's fields."""
    fields: dict[str, Any] = msgspec.to_builtins(report)
    return fields


@describes(ConsolidationReport, document, headline=lambda report: headline(report))
def parts(report: ConsolidationReport) -> Iterator[Part]:
    """The verdict with its reasons, a forest plot of tasks for each sharing, and how scores are calibrated."""
    yield from (Note(reason, strong=True) for reason in report.reasons)
    drawn = "" if report.cluster is None else f", contexts of one {report.cluster} drawn together"
    bound = bound_of([task.difference for sharing in report.sharings for task in sharing.tasks])
    for sharing in report.sharings:
        chosen = ", the chosen one" if sharing is report.chosen else ""
        yield Table(
            _rows(sharing, bound),
            f"sharing = {sharing.sharing}{chosen}: {METRIC} minus that of a model of the task alone, on the test part; "
            f"{report.level:.0%} intervals that hold for all tasks together{drawn}",
            most=None,
        )
    rows = [_calibration(each) for each in report.calibrations]
    yield Table(rows, "calibration of probabilities on the test part", most=None)


def headline(report: ConsolidationReport) -> str:
    """Return the verdict in a line."""
    verdict = "consolidated" if report.consolidated else "not consolidated"
    return f"one model for {len(report.chosen.tasks)} tasks: {verdict}"


def _rows(sharing: SharingResult, bound: float) -> list[dict[str, Any]]:
    return [
        {
            "task": each.task,
            "contexts": each.difference.contexts,
            "shared": each.shared.value,
            "alone": each.single.value,
            "difference": each.difference.value,
            "interval": interval_mark(each.difference, bound),
            "low": each.difference.low,
            "high": each.difference.high,
            "trees": _trees(each.trees[0]),
            "trees_alone": _trees(each.trees[1]),
            "outcome": each.outcome.value,
        }
        for each in sharing.tasks
    ]


def _trees(number: int | None) -> int | str:
    return "-" if number is None else number


def _calibration(change: CalibrationChange) -> dict[str, Any]:
    before, after = change.before, change.after
    return {
        "task": change.task,
        "error_of_scores": None if before is None else round(before.error, 5),
        "error_of_probabilities": None if after is None else round(after.error, 5),
        "mean_probability": None if after is None else round(after.mean_score, 5),
        "positives": None if after is None else round(after.positives, 5),
    }
