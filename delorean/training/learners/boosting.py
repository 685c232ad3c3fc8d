"""What learners of gradient boosted trees have in common: their settings, labels, categories and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from delorean.training.learners import OnRound
from schemas.errors import ConfigError, TrainingError

Target = Literal["gains", "classes", "values"]
MOST_CATEGORIES = 1 << 16


@dataclass(frozen=True)
class BoostedTrees:
    """Settings of gradient boosted trees.

    objective: what the trees minimise, by the library's name for it; `objectives` lists them
    parameters: others of the library, by its names
    rounds: trees at most
    stop_after: end when NDCG@10 on the validation part has not grown for so many rounds, and keep the trees up to the
        best one; 0: fit all rounds
    threads: 0: one for each core. The fitted trees have the same bits for any number of threads
    categorical: features whose values are categories: integers from 0 to 65,535, or missing
    """

    objective: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 500
    stop_after: int = 30
    threads: int = 0
    categorical: tuple[str, ...] = ()

    library: ClassVar[str]
    objectives: ClassVar[Mapping[str, Target]]
    """objective → what it learns: gains of a ranking, two classes (above 0 or not), or the labels' values"""
    tunable: ClassVar[frozenset[str]]
    """parameters that may be set; others are determined by settings, or would change how models are scored"""

    def __post_init__(self) -> None:
        """Reject settings that no data would make right."""
        if self.objective not in self.objectives:
            raise ConfigError.unknown(f"objective of {self.library}", self.objective, self.objectives)
        if self.rounds < 1 or self.stop_after < 0 or self.threads < 0:
            raise ConfigError.because(
                f"rounds is {self.rounds}, stop_after {self.stop_after}, threads {self.threads}",
                "expected rounds of 1 or more, stop_after and threads of 0 or more",
            )
        for name in self.parameters:
            if name not in self.tunable:
                raise ConfigError.unknown(f"parameter of {self.library}", name, self.tunable)

    @property
    def name(self) -> str:
        """The library and the objective."""
        return f"{self.library} {self.objective}"

    @property
    def target(self) -> Target:
        """What the objective learns from labels."""
        return self.objectives[self.objective]

    def targets(self, part: RankingData) -> NDArray[np.float32]:
        """Return what to learn of each item. Raises TrainingError for labels that teach this objective nothing."""
        labels = part.positive.astype(np.float32) if self.target == "classes" else part.labels
        if len(labels) == 0 or (labels == labels[0]).all():
            what = "of one class" if self.target == "classes" else "equal"
            raise TrainingError.because(
                f"all {len(labels)} labels of the training part are {what}", "give label data with different ones"
            )
        return labels

    def category_columns(self, part: RankingData) -> list[int]:
        """Return the columns of the categorical features. Raises TrainingError for other values than categories."""
        for name in self.categorical:
            if name not in part.names:
                raise TrainingError.unknown("categorical feature", name, part.names)
        columns = [part.names.index(name) for name in self.categorical]
        for column in columns:
            values = part.features[:, column]
            wrong = ~((values >= 0) & (values < MOST_CATEGORIES) & (values == np.floor(values))) & ~np.isnan(values)
            if wrong.any():
                raise TrainingError.because(
                    f"categorical feature '{part.names[column]}' has {int(wrong.sum())} values that are no category, "
                    f"such as {values[int(np.argmax(wrong))]:g}: expected integers from 0 to {MOST_CATEGORIES - 1}",
                    "let its encoder number the categories",
                )
        return columns


def imported(library: str, extra: str) -> Any:
    """Import an optional library. Raises ConfigError that names the extra which installs it."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ConfigError.because(
            f"{library} is not installed: {error}", f"pip install 'delorean-features[{extra}]'"
        ) from error


def learnable(part: RankingData) -> RankingData:
    """Leave out contexts without items and of weight 0: a library's own limits, as of rows in a leaf, count neither."""
    kept = np.diff(part.offsets) > 0
    if part.weights is not None:
        kept &= part.weights > 0
    return part if kept.all() else part.take(np.flatnonzero(kept))


def validation_metric(validation: RankingData, on_round: OnRound | None = None) -> Callable[[NDArray[Any]], float]:
    """Return the function by which to stop: NDCG@10 of scores (items,) on the validation part, as the report has it.

    on_round: called with the scores of each round; a library computes one value after each
    """
    rounds = count(1)

    def ndcg(scores: NDArray[Any]) -> float:
        single = scores.astype(np.float32)
        if on_round is not None:
            on_round(next(rounds), single)
        return _mean_ndcg(single, validation)

    return ndcg


def _mean_ndcg(scores: NDArray[np.float32], part: RankingData) -> float:
    """Return NDCG@10 as `measure` does, without the area under the curve, which takes a third of its time."""
    from delorean.evaluation.by_context import measure_contexts  # specs are read where no kernel is needed
    from delorean.evaluation.measure import measure

    measured = measure_contexts(scores, part, [10])
    counts = measured.positives > 0
    weights = np.ones(int(counts.sum())) if part.weights is None else part.weights[counts]
    if not weights.sum() > 0:
        return measure(scores, part).ndcg_at_10  # raises the reason
    return float(np.average(measured["ndcg@10"][counts], weights=weights))


def first_sentence(error: Exception) -> str:
    """Return the reason in a library's error, without its stack of native calls.

    >>> first_sentence(ValueError("[05:38:57] src/learner.cc:12: Check failed: rows == 3\\nStack trace:\\n  …"))
    'rows == 3'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rpartition("Check failed: ")[2].strip()[:300]


def grades(labels: NDArray[np.float32], most: int) -> tuple[NDArray[np.float32], list[float]]:
    """Number the distinct gains, ascending, for libraries that look a gain up by its number.

    most: distinct gains at most

    >>> grades(np.float32([0, 0.5, 3, 0.5]), 10)
    (array([0., 1., 2., 1.], dtype=float32), [0.0, 0.5, 3.0])
    """
    gains = np.unique(labels)
    if len(gains) > most:
        raise TrainingError.because(
            f"the labels have {len(gains)} distinct gains, expected at most {most}",
            "round them where the label data is made, or choose a regression objective",
        )
    return np.searchsorted(gains, labels).astype(np.float32), [float(gain) for gain in gains]
