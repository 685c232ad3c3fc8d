"""Everything that is measured of a fitted model beyond its metrics: intervals, groups, calibration, importances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.evaluation.estimate import Estimate
from delorean.evaluation.importances import Importance, importance_sample, importances
from delorean.evaluation.measure import PartScores
from delorean.evaluation.part_measurement import PartMeasurement, differences, measure_part
from delorean.evaluation.settings import EvaluationSettings
from delorean.ranking_data.ranking_data import RankingData

Contributions: TypeAlias = Callable[[RankingData], NDArray[np.float64] | None]


class LearningPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that was fitted on a share of the training part, measured on the validation part.

    contexts: of the training part that it learned from
    """

    share: float
    contexts: int
    seconds: float
    metrics: Mapping[str, Estimate]


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known about a model's quality, and how certainly.

    level: of all intervals
    cluster: the variable whose contexts were drawn together; None: contexts were drawn one by one
    parts: "validation" and "test" → the measurement of the model
    over_popularity: part → metric → by how much the model's is greater than popularity's, on the same contexts
    features, encoders: importances on the validation part; encoders only where it is known which features are whose
    learning_curve: by share of the training part, ascending; the last is the model itself
    """

    level: float
    cluster: str | None
    parts: Mapping[str, PartMeasurement]
    over_popularity: Mapping[str, Mapping[str, Estimate]]
    features: tuple[Importance, ...]
    encoders: tuple[Importance, ...] = ()
    learning_curve: tuple[LearningPoint, ...] = ()


def evaluate(
    score: PartScores,
    contributions: Contributions,
    parts: Mapping[str, tuple[RankingData, NDArray[np.float32]]],
    settings: EvaluationSettings | None = None,
    encoders: Mapping[str, Sequence[str]] | None = None,
    since: datetime | None = None,
    learning_curve: Sequence[LearningPoint] = (),
    task_of_items: Callable[[RankingData], NDArray[np.int64]] | None = None,
) -> Evaluation:
    """Evaluate a fitted model.

    score: scores the items of a part as the model does
    contributions: returns what each feature adds to each item's raw score, None where the learner cannot
    parts: "validation" and "test" → the part, and popularity's scores of its items
    encoders: name → its features
    since: the end of the training part; None: days since training are not measured
    task_of_items: returns the number of each item's task; None: the model has no tasks
    """
    settings = settings or EvaluationSettings()
    measured, better = {}, {}
    for name, (part, popularity) in parts.items():
        scores = score(part)
        measured[name] = measure_part(scores, part, settings, since)
        better[name] = differences(scores, popularity, part, settings)
    sample = importance_sample(parts["validation"][0], settings.seed)
    added = contributions(sample)
    within = None if task_of_items is None else task_of_items(sample)
    alone = {name: (name,) for name in dict.fromkeys(name.partition("[")[0] for name in sample.names)}
    return Evaluation(
        settings.level,
        settings.cluster,
        measured,
        better,
        importances(score, sample, alone, settings, added, within),
        importances(score, sample, encoders, settings, added, within) if encoders else (),
        tuple(learning_curve),
    )


def end_of(part: RankingData) -> datetime:
    """Return the last moment of a part: days since training are counted from that of the training part."""
    last: datetime = pc.max(part.contexts["time"]).as_py()
    return last
