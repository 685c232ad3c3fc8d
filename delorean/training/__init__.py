"""Feature sets in, validated models out."""

from delorean.training.metrics import Metrics, ranking_metrics
from delorean.training.ranking_data import RankingData, read_feature_set
from delorean.training.split import Split
from delorean.training.train import TrainedModel, TrainingReport, default_model, train

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
