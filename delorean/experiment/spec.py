"""An experiment as TOML or Python: its contexts, labels or tasks, features, split and model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from delorean.evaluation.settings import EvaluationSettings
from delorean.experiment.encoder_spec import EncoderSpec
from delorean.experiment.label_spec import LabelSpec
from delorean.experiment.model_spec import ModelSpec
from delorean.experiment.task_spec import MergeSpec, TaskSpec, check_tasks, encoder_specs, merged_labels, task_set
from delorean.label_quality.limits import LabelQualityLimits
from delorean.leaks import LeakThresholds
from delorean.ranking_data.split import Split
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.tasks.applicability import require_features, with_impossible_features
from delorean.tasks.task_set import Sentinel, TaskSet
from delorean.training.consolidation.settings import Consolidation
from delorean.tuning.space import TuningSpec
from encoders import FeatureModel
from schemas.errors import ConfigError
from schemas.plain_text import plain_text
from snapshotter.selection.declarations import ContextSelection, NamedSelection, in_namespace, namespace_of
from snapshotter.storage.table_source import TableSource


@dataclass(frozen=True)
class ScheduleSpec:
    """When the scheduler trains the experiment; its features are generated each day.

    training: each Monday, each day, or never
    """

    training: Literal["weekly", "daily", "never"] = "weekly"


@dataclass(frozen=True, repr=False)
class ExperimentSpec:
    """A whole experiment, the same in Python as in TOML. Its id is a hash of its content.

    labels: the label data; None: that of tasks
    encoders: the feature model, encoder by encoder: "module:name", or a table with parameters and rename; in Python
        also the encoders themselves. With tasks: those of every task that has the variables which they read
    name: of the feature set; by default the file's name
    namespace: begins the names of the experiment and of its label data, `alice.homepage`, so that two researchers may
        have experiments of one name. Label data of another name space is named in full, `bob.shown`
    contexts: the contexts that `delorean select` selects for it; None: other selections provide them
    tasks: the uses of one model by name, instead of labels; see `TaskSpec`
    sentinels: context or item variable → what stands for it in the rows of tasks that lack it
    defaults: feature → its value in tasks that cannot have it; others are missing there (NaN)
    merge: how the label data of all tasks is kept
    tables: names for the queries
    as_of: element → how old its state may be, see `AsOf`; durations as in "PT90S" or "P7D"
    confidence: element → how complete the snapshots that serve it must be
    spread: how far apart the captures of one row may be
    leaks: the thresholds above which a feature predicts its label implausibly well, and whether that fails a run
    evaluation: how the model is measured
    consolidation: how tasks share the model, and which losses of a task are tolerated
    label_quality: the limits that the label data must keep
    tuning: what `delorean tune` searches; not part of the id
    schedule: when the scheduler trains it; not part of the id
    owner: who it belongs to, for `delorean cost`; not part of the id
    folder: where relative paths of tables start; by default the file's folder; not part of the id

    >>> from encoders.library import listed
    >>> labels = LabelSpec(items=("video_id",), table="shown")
    >>> spec = ExperimentSpec(labels, (listed,), name="home", tables={"shown": TableSource("shown.parquet")})
    >>> spec.to_json()["encoders"]
    [{'encoder': 'encoders.library.my_list:listed'}]
    >>> ExperimentSpec(labels, ("encoders.library.my_list:listed",), "home", tables=spec.tables).id == spec.id
    True
    """

    labels: LabelSpec | None = None
    encoders: tuple[str | EncoderSpec, ...] = ()
    name: str = ""
    namespace: str = ""
    contexts: ContextSelection | None = None
    tasks: Mapping[str, TaskSpec] = field(default_factory=dict)
    sentinels: Mapping[str, Sentinel] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=dict)
    merge: MergeSpec = field(default_factory=MergeSpec)
    tables: Mapping[str, TableSource] = field(default_factory=dict)
    as_of: Mapping[str, AsOf] = field(default_factory=dict)
    confidence: Mapping[str, ConfidenceFloor] = field(default_factory=dict)
    spread: SpreadLimit | None = None
    leaks: LeakThresholds = field(default_factory=LeakThresholds)
    split: Split = field(default_factory=Split)
    model: ModelSpec = field(default_factory=ModelSpec)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    consolidation: Consolidation = field(default_factory=Consolidation)
    label_quality: LabelQualityLimits = field(default_factory=LabelQualityLimits)
    tuning: TuningSpec = field(default_factory=TuningSpec)
    schedule: ScheduleSpec = ScheduleSpec()
    owner: str = ""
    folder: str = ""

    def __post_init__(self) -> None:
        """Replace encoders by their specs, and names by those in the name space; reject tasks that do not fit."""
        object.__setattr__(self, "encoders", tuple(encoder_specs(self.encoders)))
        object.__setattr__(self, "name", in_namespace(self.namespace, self.name))
        if (self.labels is None) == (not self.tasks):
            problem = "labels is missing, and there are no tasks"
            raise ConfigError.because(
                problem if self.labels is None else "labels and tasks are both given",
                "write either a table [labels], or a table [tasks.my_task.labels] for each use of the model",
            )
        if self.tasks:
            check_tasks(self.tasks, self.sentinels)
        elif self.sentinels or self.defaults or self.merge != MergeSpec() or self.consolidation != Consolidation():
            raise ConfigError.because(
                "sentinels, defaults, merge and consolidation are settings of tasks, and there are none",
                "leave them out, or declare [tasks.my_task]",
            )
        for field_name in ("labels", "merge"):
            named: LabelSpec | MergeSpec | None = getattr(self, field_name)
            if named is not None and named.id is not None and not namespace_of(named.id):
                object.__setattr__(self, field_name, replace(named, id=in_namespace(self.namespace, named.id)))

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"experiment {self.name or 'without a name'}: {self.id}, {len(self.encoder_specs)} encoders")

    @property
    def label_spec(self) -> LabelSpec:
        """The label data: that of `labels`, or of all tasks as it is at rest."""
        return merged_labels(self.tasks, self.merge) if self.labels is None else self.labels

    @property
    def label_content(self) -> dict[str, Any]:
        """The fields that determine what the label data is and how it is kept, as plain values."""
        fields = self.to_json()
        if self.labels is not None:
            labels: dict[str, Any] = fields["labels"]
            return labels
        of_labels = ("labels", "sample")
        tasks = {name: {key: task[key] for key in of_labels if key in task} for name, task in fields["tasks"].items()}
        return {"tasks": tasks, "sentinels": fields.get("sentinels", {}), **fields.get("merge", {})}

    @property
    def encoder_owners(self) -> list[tuple[EncoderSpec, tuple[str, ...]]]:
        """The specs of all encoders, each with the tasks that alone have it; none: every task that can."""
        specs = [(spec, ()) for spec in encoder_specs(self.encoders)]
        own: list[tuple[EncoderSpec, tuple[str, ...]]] = []
        for name, task in self.tasks.items():
            for spec in encoder_specs(task.encoders):
                places = [place for place, (other, _) in enumerate(own) if other == spec]
                if places:
                    own[places[0]] = (spec, (*own[places[0]][1], name))
                elif all(spec != other for other, _ in specs):
                    own.append((spec, (name,)))
        return [*specs, *own]

    @property
    def encoder_specs(self) -> tuple[EncoderSpec, ...]:
        """The specs of the encoders; those of every task come first."""
        return tuple(spec for spec, _ in self.encoder_owners)

    @property
    def task_set(self) -> TaskSet | None:
        """The tasks, with the features that each cannot have as far as variables tell; None: there is one use.

        Raises what `feature_model` raises, and ConfigError for encoders that do not fit the tasks.
        """
        return self.task_set_of(self.feature_model) if self.tasks else None

    def task_set_of(self, model: FeatureModel) -> TaskSet | None:
        """Return the task set for encoders that were loaded before, in the spec's order."""
        if not self.tasks:
            return None
        owned = zip(model.encoders, self.encoder_owners, strict=True)
        owners = {feature: tasks for encoder, (_, tasks) in owned if tasks for feature in encoder.features}
        found = with_impossible_features(task_set(self.tasks, self.sentinels, self.defaults), model, {}, owners)
        require_features(found, model.features)
        return found

    @property
    def task_weights(self) -> dict[str, float]:
        """Task → what multiplies its contexts' weights; empty if all weigh 1."""
        weights = {name: task.weight for name, task in self.tasks.items()}
        return weights if any(weight != 1 for weight in weights.values()) else {}

    @property
    def feature_model(self) -> FeatureModel:
        """The feature model; importing the encoders raises ConfigError where one does not exist."""
        return FeatureModel([spec.load() for spec in self.encoder_specs])

    @property
    def id(self) -> str:
        """A hash of the spec's content: the same for every spelling of it, with or without its defaults."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain values."""
        resolved = replace(self, model=replace(self.model, threads=0))
        fields: dict[str, Any] = _without_defaults(
            replace(resolved, namespace="", tuning=TuningSpec(), schedule=ScheduleSpec(), owner="", folder="")
        )
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ExperimentSpec:
        """Read what `to_json` returned. Raises ConfigError."""
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise ConfigError.because(f"not a valid experiment: {error}") from error

    @property
    def located_tables(self) -> dict[str, TableSource]:
        """The tables, with relative paths made absolute."""
        return {name: source.beside(Path(self.folder) / "spec.toml") for name, source in self.tables.items()}

    @property
    def selections(self) -> tuple[NamedSelection, ...]:
        """The selections for `select_contexts`: the experiment's own, then `<name>-<task>` of each task that has one.

        Raises ConfigError if the spec selects no contexts.
        """
        declared = {self.name: self.contexts, **{f"{self.name}-{name}": t.contexts for name, t in self.tasks.items()}}
        named = tuple(
            NamedSelection(**vars(each), id=name, tables=self.located_tables)
            for name, each in declared.items()
            if each is not None
        )
        if not named:
            raise ConfigError.because(
                f"experiment '{self.name}' selects no contexts",
                "write a table [contexts]" + (", or [tasks.my_task.contexts]" if self.tasks else ""),
            )
        return named


def _without_defaults(value: Any) -> Any:
    """Return plain values, without the fields of dataclasses that have their default value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for each in dataclasses.fields(value):
            current = getattr(value, each.name)
            default = each.default_factory() if callable(each.default_factory) else each.default
            if current != default:
                changed[each.name] = _without_defaults(current)
        return changed
    if isinstance(value, Mapping):
        return {name: _without_defaults(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(inner) for inner in value]
    return msgspec.to_builtins(value)
