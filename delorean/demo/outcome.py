"""What came of a demo: everything that is told of it, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from delorean.demo.company import Day
from delorean.demo.parity import Replay
from delorean.demo.world import World
from delorean.experiment import ExperimentSpec
from delorean.feature_sets.table import FeatureSet
from delorean.packaging.package import ModelPackage
from delorean.training import Metrics, RankingData, ranking_metrics, read_feature_set

MODEL: Final = "model"
PLAYED: Final = "popularity in training"
KNOWN: Final = "popularity that day"
SHUFFLED: Final = "shuffled labels"


@dataclass(frozen=True)
class Outcome:
    """The days, what was learned from them, and what the replay found."""

    world: World
    experiment: ExperimentSpec
    lived: tuple[Day, ...]
    features: FeatureSet
    package: ModelPackage
    replayed: Replay

    @cached_property
    def data(self) -> RankingData:
        """The feature set, as it was trained on."""
        features = self.features
        return read_feature_set(features.uri, features.features, features.items, features.context)

    @cached_property
    def measured(self) -> Mapping[str, Metrics]:
        """How model, baselines and control rank the test part.

        Popularity is measured twice: by positives in the training part, and by what the catalogue said that day.
        """
        found = {who: parts["test"] for who, parts in self.package.report.metrics.items()}
        test = self.experiment.split.divide(self.data).test
        known = np.nan_to_num(test.features[:, self.features.features.index("popularity")], nan=-1.0)
        return {
            MODEL: found["model"],
            PLAYED: found["popularity"],
            KNOWN: ranking_metrics(known, test.labels, test.offsets),
            SHUFFLED: found["shuffled"],
        }

    def summary(self) -> dict[str, Any]:
        """Say it in the fields that the demo's last line has; the baseline is the better of the two popularities."""
        taken = [snapshot for day in self.lived for snapshot in day.run.services]
        asked: dict[str, int] = {}
        real: dict[str, float] = {}
        for snapshot in taken:
            name = snapshot.service.name
            asked[name] = asked.get(name, 0) + snapshot.asked
            real[name] = real.get(name, 0.0) + snapshot.confidence * snapshot.asked
        ndcg = {who: metrics.ndcg_at_10 for who, metrics in self.measured.items()}
        replayed = self.replayed
        return {
            "contexts": sum(day.context_set.rows for day in self.lived),
            "snapshots": len(taken),
            "confidence": {name: round(real[name] / asked[name], 6) for name in sorted(asked)},
            "rows": self.features.rows,
            "features": len(self.features.features),
            "model": {
                "ndcg@10": round(ndcg[MODEL], 6),
                "baseline_ndcg@10": round(max(ndcg[PLAYED], ndcg[KNOWN]), 6),
                "shuffled_ndcg@10": round(ndcg[SHUFFLED], 6),
            },
            "parity": {
                "requests": replayed.requests,
                "values": replayed.values,
                "mismatches": replayed.mismatches,
            },
            "paradoxes": paradoxes(self.features),
        }


def paradoxes(features: FeatureSet) -> int:
    """Count rows made from anything later than their time, or whose outcome is not later than it."""
    rows = features.to_arrow()
    late = pc.fill_null(pc.greater(rows["latest_input_at"], rows["time"]), fill_value=False)
    early = pc.less_equal(rows["outcome_at"], rows["time"])
    count: int = pc.sum(pc.or_(late, early)).as_py() or 0
    return count
