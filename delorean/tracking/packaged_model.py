"""A package as a model of MLflow. MLflow stores this file's text and runs it to load the model: nothing is pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from delorean.packaging.package import ModelPackage, load_package
from delorean.tasks.task_set import TASK_VARIABLE


class PackagedModel(PythonModel):  # type: ignore[misc]  # a class of a library whose types mypy does not follow
    """Loads a package, with every check of `load_package`, and scores data frames of its features."""

    package: ModelPackage

    def load_context(self, context: Any) -> None:
        """Load the package. Its encoders must be importable from the modules that were recorded with it."""
        self.package = load_package(context.artifacts["package"], modules=context.model_config["modules"])

    def predict(
        self,
        context: Any,  # noqa: ARG002  # MLflow passes it
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002  # the same
    ) -> NDArray[np.float32]:
        """Score rows. model_input: the columns `ModelPackage.columns`, and `task_type` for a model of tasks."""
        features = model_input[list(self.package.columns)].to_numpy(np.float32)
        tasks = None if self.package.tasks is None else model_input[TASK_VARIABLE].tolist()
        return self.package.score(features, tasks)


set_model(PackagedModel())
