"""The results of a demo run, and the summary computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from delorean.demo.ab_test import AnalysedTests
from delorean.demo.company import CapturedDay
from delorean.demo.learning import Learned
from delorean.demo.parity import ParityReport
from delorean.demo.task_models import TaskModels
from delorean.demo.world import World
from delorean.evaluation.metrics import Metrics, ranking_metrics
from delorean.experiment import ExperimentSpec
from delorean.feature_sets.table import FeatureSet
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData

MODEL: Final = "model"
PLAYED: Final = "popularity in training"
CATALOGUE: Final = "popularity that day"
SHUFFLED: Final = "shuffled labels"


@dataclass(frozen=True)
class Outcome:
    """The captured days, what was learned from them, and the results of the parity replay and of the tests.

    of_tasks: the models of several tasks
    parity: of the second of them
    """

    world: World
    experiment: ExperimentSpec
    captured_days: tuple[CapturedDay, ...]
    learned: Learned
    of_tasks: TaskModels
    parity: ParityReport
    tested: AnalysedTests

    @property
    def features(self) -> FeatureSet:
        """The features that were generated."""
        return self.learned.features

    @property
    def package(self) -> ModelPackage:
        """The package for homepages that is in production."""
        return self.learned.package

    @cached_property
    def data(self) -> RankingData:
        """The feature set in the form that training uses."""
        features = self.features
        return read_feature_set(features.uri, features.features, features.items, features.context)

    @cached_property
    def measured(self) -> Mapping[str, Metrics]:
        """Metrics of the candidate, the baselines and the control on the test part.

        Popularity is measured twice: from positives in the training part, and from the catalogue of each day.
        """
        by_test = {who: parts["test"] for who, parts in self.learned.candidate.report.metrics.items()}
        test = self.experiment.split.divide(self.data).test
        catalogue_popularity = np.nan_to_num(test.features[:, self.features.features.index("popularity")], nan=-1.0)
        return {
            MODEL: by_test["model"],
            PLAYED: by_test["popularity"],
            CATALOGUE: ranking_metrics(catalogue_popularity, test.labels, test.offsets),
            SHUFFLED: by_test["shuffled"],
        }

    def summary(self) -> dict[str, Any]:
        """Build the JSON object that the demo prints last. The baseline is the better of the two popularities."""
        taken = [snapshot for day in self.captured_days for snapshot in day.snapshots]
        asked: dict[str, int] = {}
        answered: dict[str, float] = {}
        for snapshot in taken:
            name = snapshot.service.name
            asked[name] = asked.get(name, 0) + snapshot.asked
            answered[name] = answered.get(name, 0.0) + snapshot.confidence * snapshot.asked
        ndcg = {who: metrics.ndcg_at_10 for who, metrics in self.measured.items()}
        parity, comparison = self.parity, self.learned.comparison
        return {
            "contexts": sum(chosen.rows for day in self.captured_days for chosen in day.context_sets),
            "snapshots": len(taken),
            "confidence": {name: round(answered[name] / asked[name], 6) for name in sorted(asked) if asked[name]},
            "rows": self.features.rows,
            "features": len(self.features.features),
            "model": {
                "ndcg@10": round(ndcg[MODEL], 6),
                "baseline_ndcg@10": round(max(ndcg[PLAYED], ndcg[CATALOGUE]), 6),
                "shuffled_ndcg@10": round(ndcg[SHUFFLED], 6),
            },
            "comparison": {
                "verdict": comparison.verdict.value,
                "ndcg@10": comparison["ndcg@10"].row["difference"],
                "interval": [comparison["ndcg@10"].row["low"], comparison["ndcg@10"].row["high"]],
                "production": self.learned.version,
            },
            "tasks": self._tasks(),
            "test": self._test(),
            "parity": {
                "requests": parity.requests,
                "values": parity.values,
                "mismatches": parity.mismatches,
                "tasks": parity.tasks,
            },
            "paradoxes": paradoxes(self.features),
        }

    def _tasks(self) -> dict[str, Any]:
        """Summarise the model of several tasks: what each gains or loses against a model of its own."""
        first, second = self.of_tasks.first, self.of_tasks.second
        report = first.package.report.consolidation
        assert report is not None  # it is a model of tasks
        differences = {
            each.task: [each.difference.value, each.difference.low, each.difference.high]
            for each in report.chosen.tasks
        }
        added = [name for name in second.experiment.tasks if name not in first.experiment.tasks]
        return {
            "consolidated": report.consolidated,
            "ndcg@10": differences,
            "added": added,
            "rows": second.features.rows,
        }

    def _test(self) -> dict[str, Any]:
        """Summarise the A/B test, beside the truth."""
        analysis = self.tested.analysis
        last = analysis.candidates[0].metrics[0].last if analysis.candidates else None
        return {
            "verdict": analysis.verdict.value,
            "members": sum(cell.units for cell in analysis.health.cells),
            "change": last and last.relative,
            "interval": last and [last.low, last.high],
            "truth": self.tested.visited.true_change,
        }


@dataclass(frozen=True)
class DemoResult:
    """The results of a demo run.

    folder: all files; a project in which `delorean` commands work
    report: the HTML report in it
    summary: the JSON object that is printed last
    """

    folder: Path
    report: Path
    summary: dict[str, Any]


def paradoxes(features: FeatureSet) -> int:
    """Count rows with an input later than their time, or an outcome not later than it."""
    rows = features.to_arrow()
    late = pc.fill_null(pc.greater(rows["latest_input_at"], rows["time"]), fill_value=False)
    early = pc.less_equal(rows["outcome_at"], rows["time"])
    count: int = pc.sum(pc.or_(late, early)).as_py() or 0
    return count
