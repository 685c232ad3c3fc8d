"""What came of a training, for people and for the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from delorean.training.metrics import Metrics
from delorean.training.missing_values import MissingValues


@dataclass(frozen=True)
class TrainingReport:
    """What came of a training.

    metrics: "model", "popularity" and "shuffled" → "validation" and "test" → metrics. The model's are of its ONNX form.
    sizes: contexts, items and positives of each part of the split
    importances: feature → validation NDCG@10 lost when the feature's values are shuffled among items
        (permutation importance, Breiman 2001), over at most 1,000 contexts
    seconds: step → seconds it took
    missing_values: "used" by the model as it learned, or "refused": it scores no row in which a feature is missing
    """

    model: str
    split: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, int]]
    metrics: Mapping[str, Mapping[str, Metrics]]
    importances: Mapping[str, float]
    seconds: Mapping[str, float]
    missing_values: MissingValues = "used"

    def to_json(self) -> dict[str, Any]:
        """Write the report as plain fields."""
        metrics = {who: {part: m.to_json() for part, m in parts.items()} for who, parts in self.metrics.items()}
        return {**vars(self), "metrics": metrics}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        metrics = {
            who: {part: Metrics.from_json(m) for part, m in parts.items()} for who, parts in fields["metrics"].items()
        }
        return cls(**{**fields, "metrics": metrics})
