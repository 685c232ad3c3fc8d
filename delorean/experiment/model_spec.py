"""The model that an experiment trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from delorean.experiment.imports import import_named
from delorean.ranking_data.context_weights import ContextWeight
from delorean.training.missing_values import with_imputer
from schemas.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class ModelSpec:
    """A scikit-learn estimator as `module:name` with its parameters; None: gradient boosted trees.

    label: the label that it learns; None: the only one
    weight: each context's weight in training and metrics: a column of the feature set, such as `confidence`, or a
        `ContextWeight`
    max_items: if the feature set has more items, contexts are sampled by a seeded hash, to bound memory; the report
        counts what was not read
    impute: replaces missing features by this statistic of the training part, for estimators that accept none

    >>> ModelSpec("sklearn.linear_model:LogisticRegression", {"C": 0.5}, impute="median").name
    'LogisticRegression'
    """

    estimator: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: str | ContextWeight | None = None
    seed: int = 0
    max_items: int = 20_000_000
    impute: Literal["mean", "median", "most_frequent"] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        """Reject an empty sample."""
        if self.max_items < 1:
            raise ConfigError.because(f"model.max_items is {self.max_items}, expected 1 or more")

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
        return "gradient boosted trees" if self.estimator is None else self.estimator.rpartition(":")[2]

    def build(self) -> Any:
        """Build the estimator; None for gradient boosted trees. Raises ConfigError if it cannot be built."""
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
