"""The model that an experiment trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from delorean.experiment.imports import import_named
from delorean.ranking_data.context_weights import ContextWeight
from delorean.training.learners.boosting import BoostedTrees
from delorean.training.learners.choice import LEARNERS, LearnerName
from delorean.training.learners.lightgbm import LightGBM
from delorean.training.learners.xgboost import XGBoost
from delorean.training.missing_values import with_imputer
from schemas.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class ModelSpec:
    """The model of an experiment: a learner with its parameters, and the data that it learns from.

    estimator: of scikit-learn, as `module:name`; None: gradient boosted trees
    parameters: of the estimator, or of the learner, by the library's names
    label: the label that it learns; None: the only one
    weight: each context's weight in training and metrics: a column of the feature set, such as `confidence`, or a
        `ContextWeight`
    max_items: if the feature set has more items, contexts are sampled by a seeded hash, to bound memory; the report
        counts what was not read
    impute: replaces missing features by this statistic of the training part, for estimators that accept none
    learner: the library. The following are of `lightgbm` and `xgboost`, see `BoostedTrees`
    objective: None: the library's main objective for rankings
    rounds, stop_after, categorical: None or empty: the learner's defaults
    workers: Spark tasks that fit together, each on a share of the feature set (`xgboost`); max_items then only bounds
        what the model is measured on. 1: this process fits
    threads: 0: one for each core; not part of the experiment's id, because the model does not depend on it

    >>> ModelSpec("sklearn.linear_model:LogisticRegression", {"C": 0.5}, impute="median").name
    'LogisticRegression'
    >>> ModelSpec(learner="lightgbm", parameters={"num_leaves": 15}, rounds=200).name
    'LightGBM lambdarank'
    """

    estimator: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: str | ContextWeight | None = None
    seed: int = 0
    max_items: int = 20_000_000
    impute: Literal["mean", "median", "most_frequent"] | None = None
    label: str | None = None
    learner: LearnerName = "scikit-learn"
    objective: str | None = None
    rounds: int | None = None
    stop_after: int | None = None
    categorical: tuple[str, ...] = ()
    workers: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        """Reject an empty sample, and settings of another learner than the chosen one."""
        if self.max_items < 1:
            raise ConfigError.because(f"model.max_items is {self.max_items}, expected 1 or more")
        if self.learner not in LEARNERS:
            raise ConfigError.unknown("learner", str(self.learner), LEARNERS)
        if self.workers < 1 or (self.workers > 1 and self.learner != "xgboost"):
            raise ConfigError.because(
                f"model.workers is {self.workers} with learner {self.learner}, expected 1",
                'several workers fit with learner = "xgboost"',
            )
        boosted = self.learner != "scikit-learn"
        others = ("estimator", "impute") if boosted else ("objective", "rounds", "stop_after", "categorical", "threads")
        for name in others:
            if getattr(self, name):
                raise ConfigError.because(
                    f"model.{name} is not a setting of the learner {self.learner}",
                    "leave it out" if boosted else 'name a learner: learner = "lightgbm"',
                )

    def label_of(self, names: Sequence[str]) -> str:
        """Return the label to learn, of those that label data has. Raises TrainingError."""
        if self.label is not None:
            if self.label not in names:
                raise TrainingError.unknown("label of the label data", self.label, names)
            return self.label
        if not names:
            raise TrainingError.because(
                "the label data has no label to train on", 'name one in the spec: [labels] labels = ["…"]'
            )
        if len(names) > 1:
            raise TrainingError.because(
                f"the label data has several labels: {', '.join(names)}",
                f'choose one in the spec: [model] label = "{names[0]}"',
            )
        return names[0]

    @property
    def name(self) -> str:
        """The name of the model, for people."""
        if self.learner != "scikit-learn":
            return self._boosted().name
        return "gradient boosted trees" if self.estimator is None else self.estimator.rpartition(":")[2]

    def build(self) -> Any:
        """Build the learner or the estimator; None for gradient boosted trees. Raises ConfigError if it cannot be."""
        if self.learner != "scikit-learn":
            return self._boosted()
        if self.estimator is None:
            if self.impute is not None:
                raise ConfigError.because(
                    "model.impute without model.estimator", "name an estimator: boosted trees need no imputer"
                )
            return None
        try:
            estimator = import_named(self.estimator, "estimator", type)(**self.parameters)
        except TypeError as error:
            raise ConfigError.because(f"model.estimator {self.estimator}: {error}") from error
        return estimator if self.impute is None else with_imputer(estimator, self.impute)

    def _boosted(self) -> BoostedTrees:
        names = ("objective", "rounds", "stop_after")
        settings = {name: value for name in names if (value := getattr(self, name)) is not None}
        learner = LightGBM if self.learner == "lightgbm" else XGBoost
        return learner(parameters=self.parameters, threads=self.threads, categorical=self.categorical, **settings)
