"""The tasks of an experiment whose model serves several uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from delorean.experiment.encoder_spec import EncoderSpec
from delorean.experiment.label_spec import LabelSpec
from delorean.labels import LABEL_COLUMN, WEIGHT_COLUMN
from delorean.labels.task_sample import INCLUSION_COLUMN, LabelSample
from delorean.tasks.task_set import TASK_VARIABLE, Sentinel, Task, TaskSet
from encoders import FeatureEncoder
from schemas.errors import ConfigError, LabelError
from snapshotter.selection.declarations import ContextSelection
from snapshotter.storage import require_plain_name

_OF_MERGE = ("id", "bucket_variable", "buckets")


@dataclass(frozen=True)
class TaskSpec:
    """One use of a model: its label data, what only it has, and how much it counts.

    labels: its label data, with the context variables named; where it is at rest belongs to the merge
    encoders: features of this task and of others that name the same encoder; they have their default elsewhere
    weight: multiplies the weight of each of its contexts in training
    sample: of its contexts, drawn before the merge; None: all
    contexts: selected for the experiment `<its name>-<task>`, by the task's own variables

    >>> TaskSpec(LabelSpec(items=("row_id",), context=("profile_id",), table="rows"), weight=2.0).weight
    2.0
    """

    labels: LabelSpec
    encoders: tuple[str | EncoderSpec, ...] = ()
    weight: float = 1.0
    sample: LabelSample | None = None
    contexts: ContextSelection | None = None

    def __post_init__(self) -> None:
        """Replace encoders by their specs, and reject what is wrong in any experiment."""
        object.__setattr__(self, "encoders", tuple(encoder_specs(self.encoders)))
        object.__setattr__(self, "weight", float(self.weight))  # so that a spec has one id, in Python and TOML
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError.because(f"weight is {self.weight}, expected a finite number of 0 or more")


@dataclass(frozen=True)
class MergeSpec:
    """How the label data of all tasks is kept: see the fields of these names in `LabelSpec`."""

    id: str | None = None
    bucket_variable: str | None = None
    buckets: int | None = None
    incremental: bool = True


def encoder_specs(encoders: Iterable[str | EncoderSpec | FeatureEncoder]) -> Iterator[EncoderSpec]:
    """Yield the specs of encoders that are named, described or given."""
    for each in encoders:
        if isinstance(each, FeatureEncoder):
            yield EncoderSpec.of(each)
        else:
            yield EncoderSpec(each) if isinstance(each, str) else each


def task_set(
    tasks: Mapping[str, TaskSpec], sentinels: Mapping[str, Sentinel], defaults: Mapping[str, float]
) -> TaskSet:
    """Return the tasks by their variables. What features they have depends on encoders."""
    named = (Task(name, task.labels.context or (), task.labels.items) for name, task in tasks.items())
    return TaskSet(tuple(named), dict(sentinels), {name: float(value) for name, value in defaults.items()})


def merged_labels(tasks: Mapping[str, TaskSpec], merge: MergeSpec) -> LabelSpec:
    """Return the label data of all tasks as it is at rest; its query lists those of the tasks."""
    specs = [task.labels for task in tasks.values()]
    labels = _union(spec.label_names for spec in specs)
    kept = _union(spec.keep for spec in specs)
    if any(task.sample is not None for task in tasks.values()):
        kept = _union([kept, (INCLUSION_COLUMN,)])
    # Which contexts a quota draws depends on all rows, so what earlier days drew cannot stay.
    steady = not any(task.sample is not None and task.sample.fixed_size for task in tasks.values())
    return LabelSpec(
        items=_union(spec.items for spec in specs),
        context=(*_union(spec.context or () for spec in specs), TASK_VARIABLE),
        labels=None if labels == (LABEL_COLUMN,) else labels,
        weight=WEIGHT_COLUMN if any(spec.weight is not None for spec in specs) else None,
        keep=kept,
        query="\n".join(f"-- {name}\n{task.labels.sql}" for name, task in tasks.items()),
        id=merge.id,
        bucket_variable=merge.bucket_variable,
        buckets=merge.buckets,
        incremental=merge.incremental and steady and all(spec.incremental for spec in specs),
    )


def check_tasks(tasks: Mapping[str, TaskSpec], sentinels: Mapping[str, Sentinel]) -> None:
    """Raise ConfigError or LabelError for tasks that cannot be merged, whatever their tables contain."""
    spelled: dict[str, str] = {}
    for name, task in tasks.items():
        require_plain_name("task", name)
        if (other := spelled.setdefault(name.casefold(), name)) != name:
            raise ConfigError.because(f"tasks '{other}' and '{name}' differ only in case", "rename one")
        _check_task(name, task)
    if not any(task.weight for task in tasks.values()):
        raise ConfigError.because("the weights of all tasks are 0", "give at least one task a weight above 0")
    if len({bool(task.labels.label_names) for task in tasks.values()}) > 1:
        without = [name for name, task in tasks.items() if not task.labels.label_names]
        raise LabelError.because(
            f"tasks {', '.join(without)} have no labels, the others have", "give all tasks labels, or none"
        )
    _check_roles(tasks)
    task_set(tasks, sentinels, {}).check_sentinels()


def _check_task(name: str, task: TaskSpec) -> None:
    spec = task.labels
    if not spec.context:
        raise LabelError.because(
            f"task '{name}' does not name its context variables", f'write [tasks.{name}.labels] context = ["…"]'
        )
    for column in (*spec.context, *spec.items, *spec.keep):
        if column.casefold() == TASK_VARIABLE:
            raise LabelError.because(
                f"task '{name}' has a variable '{column}', which is what names the task", "give it another name"
            )
    try:
        spec.check()
    except LabelError as error:
        raise type(error)(f"task '{name}': {error}") from error
    for field in _OF_MERGE:
        if getattr(spec, field) is not None:
            raise ConfigError.because(
                f"task '{name}': labels.{field} belongs to the label data of all tasks", f"write [merge] {field} = …"
            )
    _check_names(name, task)


def _check_names(name: str, task: TaskSpec) -> None:
    """Raise LabelError for strata and selected variables that the task's label data lacks."""
    spec = task.labels
    context = spec.context or ()
    for column in () if task.sample is None else task.sample.strata:
        if column not in (*context, *spec.keep):
            raise LabelError.unknown(f"stratum of task '{name}'", column, (*context, *spec.keep))
    for variable in () if task.contexts is None else task.contexts.key:
        if variable not in context:
            raise LabelError.unknown(f"variable of task '{name}' to select contexts by", variable, context)


def _check_roles(tasks: Mapping[str, TaskSpec]) -> None:
    """Raise LabelError for a name that is one thing in a task and another in a second one."""
    roles: dict[str, tuple[str, str, str]] = {}
    for name, task in tasks.items():
        spec = task.labels
        named = {"a context variable": spec.context or (), "an item variable": spec.items}
        for role, columns in {**named, "carried along": spec.keep, "a label": tuple(spec.label_names)}.items():
            for column in columns:
                spelling, other, before = roles.setdefault(column.casefold(), (column, name, role))
                if before != role or spelling != column:
                    raise LabelError.because(
                        f"'{spelling}' is {before} of task '{other}', and '{column}' is {role} of task '{name}'",
                        "give one of them another name in its query: SELECT … AS …",
                    )


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(names)))
