"""The company as three tasks: its contexts are in turn of each, and one of them cannot have a feature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import company
import numpy as np
import pyarrow as pa

from delorean.packaging.package import ModelPackage
from delorean.packaging.writing import Lineage, write_package
from delorean.ranking_data.ranking_data import RankingData
from delorean.tasks.impossible_features import task_numbers, with_defaults
from delorean.tasks.task_set import TASK_VARIABLE, Task, TaskSet
from delorean.training.fitting import TrainedModel
from encoders.data_map import DataMaps
from schemas.data_keys import context_variable

NAMES = ("home", "search", "similar")
WITHOUT = {"similar": ("listed",)}
TASKS = TaskSet(
    tuple(Task(name, ("profile_id", "country"), ("video_id",), WITHOUT.get(name, ())) for name in NAMES),
    defaults={"listed": 0.0},
)
CONTEXT = [*company.CONTEXT, context_variable(TASK_VARIABLE, pa.string())]


def with_tasks(contexts: pa.Table) -> pa.Table:
    return contexts.append_column(TASK_VARIABLE, pa.array([NAMES[i % 3] for i in range(len(contexts))]))


def ranking_data() -> RankingData:
    """The company's data, its contexts in turn of each task, with what a task cannot have at its default."""
    data = company.ranking_data()
    contexts = with_tasks(data.contexts)
    items = np.repeat(task_numbers(contexts, TASKS), np.diff(data.offsets))
    features = with_defaults(dict(zip(data.names, data.features.T, strict=True)), items, TASKS)
    return replace(data, contexts=contexts, features=np.stack([features[name] for name in data.names], axis=1))


def golden_maps() -> DataMaps:
    maps = company.data_maps(range(company.PROFILES))
    return replace(maps, contexts=with_tasks(maps.contexts))


def write_tasks(path: Path, trained: TrainedModel, golden: DataMaps | None = None) -> ModelPackage:
    lineage = Lineage({"path": "labels"}, {"path": "features", "version": 0}, {"my_list": ["run-1"]}, {}, "abc")
    arguments = (CONTEXT, company.ITEMS, company.SERVICES, golden or golden_maps(), lineage)
    return write_package(path, trained, company.MODEL, *arguments, golden_contexts=12, modules=company.MODULES)
