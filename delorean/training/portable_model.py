"""A fitted model with its portable forms: plain trees, and ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delorean.scoring import Scorer
from delorean.scoring.conversion import trees_of
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.tree_scorer import TreeScorer
from delorean.scoring.trees import TreeEnsemble
from delorean.scoring.trees_onnx import trees_to_onnx
from delorean.training.learners import FittedModel
from delorean.training.learners.choice import as_model
from delorean.training.onnx_model import to_onnx


@dataclass(frozen=True)
class PortableModel:
    """A fitted model and its portable forms.

    fitted: the library's own object
    onnx: the same model, for any runtime of ONNX
    trees: the same model as plain arrays, None where it does not consist of trees
    """

    fitted: Any
    onnx: bytes
    trees: TreeEnsemble | None

    @classmethod
    def of(cls, model: FittedModel, features: int) -> PortableModel:
        """Convert a model. Raises TrainingError for one that cannot be written. features: that it takes."""
        trees = trees_of(model.fitted)
        onnx = to_onnx(model.fitted, features) if trees is None else trees_to_onnx(trees)
        return cls(model.fitted, onnx, trees)

    @cached_property
    def scorer(self) -> Scorer:
        """What is measured, packaged and served: the trees, or the ONNX model where there are none."""
        return OnnxScorer(self.onnx) if self.trees is None else TreeScorer(self.trees)

    @property
    def model(self) -> FittedModel:
        """The fitted model, as every learner's is used."""
        return as_model(self.fitted)

    def reference(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score rows (rows, features) with the learner's own library."""
        return self.model.reference(features)
