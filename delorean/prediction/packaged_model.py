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
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.training.missing_values import refuse_missing_values
from encoders.vector import columns_of
from schemas.errors import SetupError

if TYPE_CHECKING:
    from delorean.packaging.package import ModelPackage

SCORE_COLUMN = "score"


@dataclass(frozen=True)
class PackagedModel:
    """A package's model as data; a process opens it when it scores for the first time.

    model: trees, or the content of an ONNX file
    features: names, in the order of the model's input; vectors: the widths of those that are vectors
    name: of the model, for errors
    """

    model: TreeEnsemble | bytes
    features: tuple[str, ...]
    name: str
    accepts_missing: bool
    vectors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, package: ModelPackage) -> Self:
        """Return a package's model."""
        scorer, report = package.scorer, package.report
        model = scorer.trees if isinstance(scorer, TreeScorer) else (package.path / MODEL).read_bytes()
        return cls(
            model, package.features, report.model, report.missing_values == "used", package.feature_model.vectors
        )

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of features, as the package does. Raises PackageError for a missing value it does not accept."""
        if not self.accepts_missing:
            refuse_missing_values(self.name, columns_of(self.features, self.vectors), rows)
        return self._scorer.score(rows)

    @cached_property
    def _scorer(self) -> Scorer:
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
        return {name: value for name, value in vars(self).items() if name != "_scorer"}
