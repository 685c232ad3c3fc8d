"""Scores the items of a feature set with a package, into a table of the same grouping."""

from delorean.prediction.predict import predict
from delorean.prediction.table import Predictions, load_predictions

__all__ = ["Predictions", "load_predictions", "predict"]
