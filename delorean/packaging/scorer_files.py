"""Reads the model of a package, as untrusted data, from its trees or from its ONNX files."""

from __future__ import annotations

from collections.abc import Mapping

from delorean.packaging.files import MANIFEST, MODEL, task_model
from delorean.packaging.tree_file import TREES, read_task_trees, read_trees
from delorean.scoring import Scorer
from delorean.scoring.onnx_scorer import OnnxScorer
from delorean.scoring.task_scorers import TaskFeatureScorer, TaskScorer, TaskTreeScorer
from delorean.scoring.task_trees import TaskTrees
from delorean.scoring.tree_scorer import TreeScorer
from delorean.tasks.task_set import TaskSet
from schemas.errors import PackageError


def read_scorer(files: Mapping[str, bytes], features: int) -> Scorer:
    """Read a model of one use: its trees, or its ONNX file. Raises PackageError for one of other features."""
    if TREES in files:
        return TreeScorer(read_trees(TREES, files[TREES], features))
    scorer = OnnxScorer(files[MODEL])
    if scorer.features != features:
        raise PackageError.because(f"model.onnx takes {scorer.features} features, feature_model.json yields {features}")
    return scorer


def read_task_scorer(files: Mapping[str, bytes], features: int, tasks: TaskSet) -> TaskScorer:
    """Read a model of tasks: trees of which each task has its own, or a model that reads the task's number."""
    trees = read_task_trees(TREES, files[TREES], features, len(tasks.tasks)) if TREES in files else None
    if isinstance(trees, TaskTrees) is (MODEL in files):
        raise PackageError.because(f"'{TREES}' and the ONNX files are of different models", "package the model again")
    if isinstance(trees, TaskTrees):
        return TaskTreeScorer(trees)
    scorer = OnnxScorer(files[MODEL]) if trees is None else TreeScorer(trees)
    if scorer.features != features + 1:
        raise PackageError.because(f"{MODEL} takes {scorer.features} features, expected {features} and the task")
    return TaskFeatureScorer(scorer, len(tasks.tasks))


def refuse_other_models(files: Mapping[str, bytes], tasks: TaskSet | None) -> None:
    """Raise PackageError unless the package has one ONNX file, or one for each of its tasks."""
    existing = {name for name in files if name.endswith(".onnx")}
    of_tasks = set() if tasks is None else {task_model(name) for name in tasks.names}
    if existing not in ({MODEL}, of_tasks):
        raise PackageError.because(
            f"{MANIFEST} lists the models {', '.join(sorted(existing)) or 'none'}, expected {MODEL}"
            + (f", or {', '.join(sorted(of_tasks))}" if of_tasks else ""),
            "package the model again",
        )


def has_trees(scorer: Scorer | TaskScorer) -> bool:
    """Whether scores are sums of trees, which are the same on every machine."""
    inner = scorer.scorer if isinstance(scorer, TaskFeatureScorer) else scorer
    return isinstance(inner, TreeScorer | TaskTreeScorer)
