"""Learners: what fits a model on ranking data. One module for each library, which is imported when it is first used.

A learner is chosen by its name in a spec, `[model] learner = "lightgbm"`, or passed to `delorean.train`. All fit on the
same arrays, stop by the same metric of the validation part, and give a model that is scored and packaged in one way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.missing_values import MissingValueHandling

OnRound: TypeAlias = Callable[[int, NDArray[np.float32]], None]
"""called after a round of boosting with its number, from 1 on, and the scores (items,) of the validation part so far"""


class FittedModel(Protocol):
    """A model that a learner has fitted.

    fitted: the library's own object
    rounds: trees or iterations that it consists of, None where it has no such number
    """

    @property
    def fitted(self) -> Any: ...  # noqa: D102  # above

    @property
    def rounds(self) -> int | None: ...  # noqa: D102  # above

    @property
    def name(self) -> str:
        """What the model is, for people."""
        ...

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows (rows, features) with the library itself: probabilities where it learned classes."""
        ...

    def contributions(self, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Return what each feature adds to each row's raw score (rows, features), None where the library cannot.

        They are SHAP values (Lundberg et al. 2020), exact for trees.
        """
        ...

    def missing_values(self, features: int) -> MissingValueHandling:
        """Return how the model handles missing values. features: their number."""
        ...


class Learner(Protocol):
    """Fits a model."""

    @property
    def name(self) -> str:
        """What it fits, for people."""
        ...

    def check(self) -> None:
        """Raise TrainingError for what could not be fitted or packaged whatever the data."""
        ...

    def fit(
        self,
        train: RankingData,
        validation: RankingData,
        seed: int,
        on_round: OnRound | None = None,
        start: Any = None,
    ) -> FittedModel:
        """Fit a model on the training part. The validation part only decides when to stop.

        on_round: ends the fit by an exception, which is passed on; learners without rounds never call it
        start: a model of the same learner that is continued: its trees stay, and others are added; None: there is none

        Raises TrainingError for data that it cannot be fitted on, and where it cannot continue a model.
        """
        ...
