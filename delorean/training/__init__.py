"""Feature sets in, validated models out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazily

if TYPE_CHECKING:
    from delorean.training.fitting import TrainedModel, default_model, train
    from delorean.training.metrics import Metrics, ranking_metrics
    from delorean.training.ranking_data import RankingData, read_feature_set
    from delorean.training.report import TrainingReport
    from delorean.training.split import Split

__all__ = [
    "Metrics",
    "RankingData",
    "Split",
    "TrainedModel",
    "TrainingReport",
    "default_model",
    "ranking_metrics",
    "read_feature_set",
    "train",
]

# Imported when first used: a server scores without scikit-learn, whose import takes most of a second.
__getattr__ = lazily(
    __name__,
    {
        "Metrics": "delorean.training.metrics",
        "RankingData": "delorean.training.ranking_data",
        "Split": "delorean.training.split",
        "TrainedModel": "delorean.training.fitting",
        "TrainingReport": "delorean.training.report",
        "default_model": "delorean.training.fitting",
        "train": "delorean.training.fitting",
        "ranking_metrics": "delorean.training.metrics",
        "read_feature_set": "delorean.training.ranking_data",
    },
)
