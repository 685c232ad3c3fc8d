"""A feature model bound for several tasks: each context gets only the features that its task can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delorean.tasks.impossible_features import task_numbers, with_defaults
from delorean.tasks.task_set import TaskSet
from encoders.bound_model import BoundModel
from encoders.data_map import DataMaps
from encoders.feature_model import FeatureModel
from schemas.data_keys import DataKey


@dataclass(frozen=True)
class TasksEncoders:
    """The encoders that some tasks have in common.

    tasks: positions in the task set
    model: None if the tasks have none of the model's features
    """

    tasks: tuple[int, ...]
    model: BoundModel | None


@dataclass(frozen=True)
class TaskModel:
    """A bound model of several tasks; it has the methods of `BoundModel` that compute features.

    An encoder never sees a context whose task cannot have its features, so sentinels never reach it. The features have
    their defaults there, see `with_defaults`.

    features: names, in order; vectors: the widths of those that are vectors
    groups: tasks that have the same encoders
    """

    tasks: TaskSet
    features: tuple[str, ...]
    groups: tuple[TasksEncoders, ...]
    vectors: Mapping[str, int] = field(default_factory=dict)

    def encode(self, maps: DataMaps) -> dict[str, NDArray[np.float32]]:
        """Compute every feature for every item of every context, see `BoundModel.encode`.

        maps: its contexts have the variable `task_type`
        """
        return self._encode(maps, BoundModel.encode)

    def interpret(self, maps: DataMaps) -> dict[str, NDArray[np.float32]]:
        """Compute the same features in plain Python, see `BoundModel.interpret`."""
        return self._encode(maps, BoundModel.interpret)

    def warm_up(self) -> None:
        """Compile every encoder, or load it from the cache folder."""
        for group in self.groups:
            if group.model is not None:
                group.model.warm_up()

    def _encode(
        self, maps: DataMaps, compute: Callable[[BoundModel, DataMaps], dict[str, NDArray[np.float32]]]
    ) -> dict[str, NDArray[np.float32]]:
        numbers = task_numbers(maps.contexts, self.tasks)
        of_items = np.repeat(numbers, np.diff(maps.item_offsets))
        shapes = {
            name: (len(of_items), *([self.vectors[name]] if name in self.vectors else [])) for name in self.features
        }
        features = {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in shapes.items()}
        for group in self.groups:
            chosen = np.isin(numbers, group.tasks)
            if group.model is None or not chosen.any():
                continue
            everything = bool(chosen.all())
            items = slice(None) if everything else np.isin(of_items, group.tasks)
            for name, values in compute(group.model, maps if everything else maps.where(chosen)).items():
                features[name][items] = values
        return with_defaults(features, of_items, self.tasks)


def bind_for_tasks(
    model: FeatureModel,
    context: Sequence[DataKey],
    items: Sequence[DataKey],
    tasks: TaskSet | None,
    cache_folder: Path | str | None = None,
) -> BoundModel | TaskModel:
    """Bind a feature model to variables, see `FeatureModel.bind`.

    tasks: each with the features that it cannot have; None: contexts are of one use, and have all features
    """
    if tasks is None:
        return model.bind(context, items, cache_folder)
    model.bind(context, items, cache_folder)  # raises what the whole model raises, also for encoders of no task
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, task in enumerate(tasks.tasks):
        possible = tuple(name for name in model.features if name not in task.without)
        groups.setdefault(possible, []).append(number)
    bound = []
    for features, numbers in groups.items():
        encoders = [encoder for encoder in model.encoders if not {*encoder.features}.isdisjoint(features)]
        of_tasks = FeatureModel(encoders).bind(context, items, cache_folder) if encoders else None
        bound.append(TasksEncoders(tuple(numbers), of_tasks))
    return TaskModel(tasks, model.features, tuple(bound), model.vectors)
