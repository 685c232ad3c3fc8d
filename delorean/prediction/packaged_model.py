"""The part of a package that tasks in other processes need to score rows of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from delorean.packaging.files import MODEL
from delorean.scoring import Scorer
from delorean.scoring.calibration import TaskCalibration, calibrated
from delorean.scoring.task_scorers import TaskFeatureScorer, TaskScorer, TaskTreeScorer
from delorean.scoring.task_trees import TaskTrees
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.tasks.task_set import TaskSet
from delorean.training.missing_values import refuse_missing_values
from encoders.vector import columns_of
from schemas.errors import PackageError, SetupError

if TYPE_CHECKING:
    from delorean.packaging.package import ModelPackage

SCORE_COLUMN, PROBABILITY_COLUMN = "score", "probability"


@dataclass(frozen=True)
class PackagedModel:
    """A package's model as data; a process opens it when it scores for the first time.

    model: trees, or the content of an ONNX file
    features: names, in the order of the model's input; vectors: the widths of those that are vectors
    name: of the model, for errors
    tasks, calibrations: of the package
    """

    model: TreeEnsemble | TaskTrees | bytes
    features: tuple[str, ...]
    name: str
    accepts_missing: bool
    tasks: TaskSet | None = None
    calibrations: Mapping[str, TaskCalibration] = field(default_factory=dict)
    vectors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, package: ModelPackage) -> Self:
        """Return a package's model."""
        scorer, report = package.scorer, package.report
        inner = scorer.scorer if isinstance(scorer, TaskFeatureScorer) else scorer
        trees = inner.trees if isinstance(inner, TreeScorer | TaskTreeScorer) else None
        model = (package.path / MODEL).read_bytes() if trees is None else trees
        return cls(
            model,
            package.features,
            report.model,
            report.missing_values == "used",
            package.tasks,
            package.calibrations,
            package.feature_model.vectors,
        )

    def score(self, rows: NDArray[np.float32], tasks: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Score rows of features, as the package does. Raises PackageError for a missing value it does not accept.

        tasks: (rows,) the number of each row's task; None for a model without tasks
        """
        if not self.accepts_missing:
            refuse_missing_values(self.name, columns_of(self.features, self.vectors), rows)
        return self._scorer.score(rows) if tasks is None else self._task_scorer.score(rows, tasks)

    def probabilities(self, scores: NDArray[np.float32], tasks: NDArray[np.int64] | None) -> NDArray[np.float32] | None:
        """Return the probability of each score, as the package does, None where it calibrates none."""
        if self.tasks is None or tasks is None or not self.calibrations:
            return None
        return calibrated(scores, tasks, self.tasks.names, self.calibrations)

    @cached_property
    def _task_scorer(self) -> TaskScorer:
        if isinstance(self.model, TaskTrees):
            return TaskTreeScorer(self.model)
        return TaskFeatureScorer(self._scorer, 0 if self.tasks is None else len(self.tasks.tasks))

    @cached_property
    def _scorer(self) -> Scorer:
        if isinstance(self.model, TaskTrees):
            raise PackageError.because(f"{self.name} scores no rows without their tasks")
        if isinstance(self.model, TreeEnsemble):
            return TreeScorer(self.model)
        try:
            from delorean.scoring.onnx_scorer import OnnxScorer  # trees need no onnxruntime
        except ImportError as error:
            raise SetupError.because(
                f"{self.name} is scored by onnxruntime, and {error.name} is not installed here",
                "pack the executors' environment with make package ARGS=--models, or predict without Spark: --cores 0",
            ) from error
        return OnnxScorer(self.model)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the opened model: it cannot be sent to another process."""
        return {name: value for name, value in vars(self).items() if name not in ("_scorer", "_task_scorer")}
