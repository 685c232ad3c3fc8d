"""Fits models that are only compared, not packaged: those of a search for parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from delorean.evaluation.measure import PartScores
from delorean.ranking_data.ranking_data import RankingData
from delorean.tasks.task_set import TaskSet
from delorean.training.consolidation.settings import Consolidation
from delorean.training.fitting import with_tasks
from delorean.training.learners import OnRound
from delorean.training.learners.choice import as_learner
from delorean.training.served_model import FittedTasks


def fit_candidate(
    model: Any,
    train: RankingData,
    validation: RankingData,
    seed: int,
    on_round: OnRound | None = None,
    tasks: TaskSet | None = None,
    consolidation: Consolidation | None = None,
) -> PartScores:
    """Fit a model and return what scores the items of a part.

    model, seed, tasks, consolidation: as `train` takes them
    on_round: see `Learner.fit`

    Raises TrainingError for data or parameters that it cannot be fitted with, ConfigError for a learner that cannot
    share a model among tasks in this way.
    """
    learner = with_tasks(as_learner(model), tasks, consolidation)
    learner.check()
    fitted = learner.fit(train, validation, seed, on_round)
    if isinstance(fitted, FittedTasks):
        return lambda part: fitted.reference(part).astype(np.float32)
    return lambda part: fitted.reference(part.features).astype(np.float32)
