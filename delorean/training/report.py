"""The report of a training, for people and for the model package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from delorean.evaluation.evaluation import Evaluation
from delorean.evaluation.metrics import Metrics
from delorean.training.consolidation.result import ConsolidationReport
from delorean.training.missing_values import MissingValueHandling


class TrainingReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of a training. `msgspec.to_builtins` and `msgspec.convert` write and read it as plain fields.

    metrics: "model", "popularity" and "shuffled" → "validation" and "test" → metrics. The model's are
        of what is served.
    sizes: contexts, items and positives of each part of the split
    importances: feature → validation NDCG@10 lost when the feature's values are shuffled among items
        (permutation importance, Breiman 2001), over at most 1,000 contexts
    seconds: step → seconds it took
    rounds: number of boosting rounds of the model, None where it has no such number
    missing_values: "used" by the model as it learned, or "refused": it scores no row in which a feature is missing
    evaluation: intervals, groups, calibration and importances; None in reports of earlier releases
    consolidation: whether one model for several tasks is right; None for a model of one use
    """

    model: str
    split: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, int]]
    metrics: Mapping[str, Mapping[str, Metrics]]
    importances: Mapping[str, float]
    seconds: Mapping[str, float]
    missing_values: MissingValueHandling = "used"
    rounds: int | None = None
    evaluation: Evaluation | None = None
    consolidation: ConsolidationReport | None = None
