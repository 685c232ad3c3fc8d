"""The data of the demo's report, and the summary printed on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from delorean.demo.company import CapturedDay
from delorean.demo.outcome import DemoResult, Outcome
from delorean.demo.parity import ParityReport
from delorean.demo.task_models import TaskModel
from delorean.demo.world import DAY, World, micros_of
from delorean.display.report import Candidate, CellTest, Feature, Parity, ReportData, SharedModel
from delorean.packaging.package import ModelPackage
from delorean.time_travel import TimeMachine
from schemas.plain_text import plain_text
from schemas.strict_json import json_text
from snapshotter.index import SnapshotIndex
from snapshotter.records import to_micros
from snapshotter.storage import Storage

_OF_HOMEPAGES = {"profile_id", "country", "device"}
_MEASURES = {"NDCG@10": "ndcg_at_10", "MRR": "mrr", "recall@10": "recall_at_10"}


def report_data(
    outcome: Outcome,
    summary: Mapping[str, Any],
    storage: Storage,
    index: SnapshotIndex,
    seconds: Mapping[str, float],
) -> ReportData:
    """Collect the data of the report."""
    world, captured_days, parity, data = outcome.world, outcome.captured_days, outcome.parity, outcome.data
    started = micros_of(world.plays["started_at"]) - to_micros(world.starts_at)
    days, plays = np.unique(started // DAY, return_counts=True)
    report = outcome.learned.candidate.report
    return ReportData(
        title=f"A time machine for features: the demo on {_source(world)}",
        summary=summary,
        notes=world.notes,
        plays_by_day=dict(zip(days.tolist(), plays.tolist(), strict=True)),
        snapshot_days=list(range(len(captured_days))),
        strata=[stratum for chosen in captured_days[-1].context_sets for stratum in chosen.report],
        confidence=_by_service(captured_days),
        coverage=_coverage(captured_days, index, storage),
        features=[Feature(name, data.features[:, column], data.positive) for column, name in enumerate(data.names)],
        metrics={
            who: {measure: getattr(metrics, name) for measure, name in _MEASURES.items()}
            for who, metrics in outcome.measured.items()
        },
        sizes=report.sizes,
        importances=report.importances,
        parity=Parity(
            parity.requests,
            parity.values,
            parity.mismatches,
            parity.examples,
            parity.tasks,
            _scores(outcome.of_tasks.second.package, parity),
            np.concatenate(parity.scores),
        ),
        seconds=seconds,
        candidate=Candidate(
            outcome.learned.tuning,
            outcome.learned.candidate.report,
            outcome.learned.comparison,
            outcome.learned.version,
        ),
        shared=_shared(outcome.of_tasks.first, outcome.of_tasks.second),
        test=CellTest(
            outcome.tested.analysis,
            outcome.tested.interleaved,
            len(outcome.tested.visited.visits),
            outcome.tested.visited.true_rates,
        ),
    )


def _scores(package: ModelPackage, parity: ParityReport) -> NDArray[np.float32]:
    """Score the recorded features of all replayed requests."""
    scored = (package.score(rows, task) for rows, task in zip(parity.offline, parity.task_of_request, strict=True))
    return np.concatenate(list(scored))


def _shared(first: TaskModel, second: TaskModel) -> SharedModel:
    return SharedModel(
        first.labels,
        first.package.report.consolidation,
        first.package.report,
        [name for name in second.experiment.tasks if name not in first.experiment.tasks],
        second.labels,
        second.package.report.consolidation,
        second.features.notes,
    )


def _source(world: World) -> str:
    return "MovieLens" if world.name == "MovieLens" else "a generated world"


def _by_service(captured_days: Sequence[CapturedDay]) -> dict[str, list[float]]:
    names = dict.fromkeys(snapshot.service.name for day in captured_days for snapshot in day.snapshots)
    return {name: [day.confidence(name) for day in captured_days] for name in names}


def _coverage(captured_days: Sequence[CapturedDay], index: SnapshotIndex, storage: Storage) -> dict[str, list[float]]:
    """Travel to each snapshot's moment and compute the share of the day's homepages with state of that day.

    Services whose answers depend on more than a homepage's variables are left out.
    """
    machine = TimeMachine(index, storage)
    services = [snapshot.service for snapshot in captured_days[0].snapshots]
    elements = [each.element.name for each in services if {key.name for key in each.key} <= _OF_HOMEPAGES]
    return {
        element: [
            machine.at(day.moment, timedelta(days=1) / 2).for_experiment("homepage")[element].coverage
            for day in captured_days
        ]
        for element in elements
    }


def show(result: DemoResult) -> None:
    """Print a table of results, the report's path and, last, the summary as one JSON object."""
    console = Console(width=100, highlight=False)
    summary = result.summary
    model, parity, comparison = summary["model"], summary["parity"], summary["comparison"]
    low, high = comparison["interval"]
    confidence = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in summary["confidence"].items())
    rows = {
        "captured": f"{summary['contexts']:,} contexts in {summary['snapshots']} snapshots of online services",
        "confidence": confidence,
        "training data": f"{summary['rows']:,} homepages, {summary['features']} features of each candidate",
        "ranking quality": f"NDCG@10 {model['ndcg@10']:.3f}; popularity alone {model['baseline_ndcg@10']:.3f}, "
        f"trained on shuffled labels {model['shuffled_ndcg@10']:.3f}",
        "new against old": f"{comparison['verdict']}: NDCG@10 {comparison['ndcg@10']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]; in production: {comparison['production']}",
        "one model": _tasks_in_words(summary["tasks"]),
        "two cells": _test_in_words(summary["test"]),
        "online = offline": f"{parity['mismatches']} of {parity['values']:,} values differ, "
        f"in {parity['requests']} requests to the live scorer",
        "future leaks": f"{summary['paradoxes']} of {summary['rows']:,} rows",
        "duration": f"{sum(summary['seconds'].values()):.0f} s",
    }
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in rows.items():
        table.add_row(name, Text(plain_text(text)))
    console.print(table)
    console.print(f"Report: {result.report}", soft_wrap=True, markup=False)
    console.print(json_text(summary), soft_wrap=True, markup=False)


def _tasks_in_words(tasks: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{name.replace('_', ' ')} {value:+.3f}" for name, (value, *_) in tasks["ndcg@10"].items())
    return f"{changes} against single models"


def _test_in_words(test: Mapping[str, Any]) -> str:
    if test["change"] is None:
        return str(test["verdict"])
    low, high = test["interval"]
    return f"{test['verdict']}: {test['change']:+.1%} [{low:+.0%}, {high:+.0%}] starts; in truth {test['truth']:+.1%}"
