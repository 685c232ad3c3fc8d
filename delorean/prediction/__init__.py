"""Scores the items of a feature set with a package, into a table of the same grouping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.prediction.job import predict
    from delorean.prediction.table import Predictions, load_predictions

__all__ = ["Predictions", "load_predictions", "predict"]

# Executors, which import only the tasks, have no Delta.
__getattr__ = lazy_getattr(
    __name__,
    {
        "Predictions": "delorean.prediction.table",
        "load_predictions": "delorean.prediction.table",
        "predict": "delorean.prediction.job",
    },
)
