"""An experiment as TOML or Python: its contexts, labels, features, split and model."""

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
from delorean.label_quality.limits import LabelQualityLimits
from delorean.leaks import LeakThresholds
from delorean.ranking_data.split import Split
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.tuning.space import TuningSpec
from encoders import FeatureEncoder, FeatureModel
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

    labels: the label data
    encoders: the feature model, encoder by encoder: "module:name", or a table with parameters and rename; in Python
        also the encoders themselves
    name: of the feature set; by default the file's name
    namespace: begins the names of the experiment and of its label data, `alice.homepage`, so that two researchers may
        have experiments of one name. Label data of another name space is named in full, `bob.shown`
    contexts: the contexts that `delorean select` selects for it; None: other selections provide them
    tables: names for the queries
    as_of: element → how old its state may be, see `AsOf`; durations as in "PT90S" or "P7D"
    confidence: element → how complete the snapshots that serve it must be
    spread: how far apart the captures of one row may be
    leaks: the thresholds above which a feature predicts its label implausibly well, and whether that fails a run
    evaluation: how the model is measured
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

    labels: LabelSpec
    encoders: tuple[str | EncoderSpec, ...]
    name: str = ""
    namespace: str = ""
    contexts: ContextSelection | None = None
    tables: Mapping[str, TableSource] = field(default_factory=dict)
    as_of: Mapping[str, AsOf] = field(default_factory=dict)
    confidence: Mapping[str, ConfidenceFloor] = field(default_factory=dict)
    spread: SpreadLimit | None = None
    leaks: LeakThresholds = field(default_factory=LeakThresholds)
    split: Split = field(default_factory=Split)
    model: ModelSpec = field(default_factory=ModelSpec)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    label_quality: LabelQualityLimits = field(default_factory=LabelQualityLimits)
    tuning: TuningSpec = field(default_factory=TuningSpec)
    schedule: ScheduleSpec = ScheduleSpec()
    owner: str = ""
    folder: str = ""

    def __post_init__(self) -> None:
        """Replace encoders by their specs, and names by those in the name space."""
        specs = [EncoderSpec.of(each) if isinstance(each, FeatureEncoder) else each for each in self.encoders]
        object.__setattr__(self, "encoders", tuple(specs))
        object.__setattr__(self, "name", in_namespace(self.namespace, self.name))
        if self.labels.id is not None and not namespace_of(self.labels.id):
            labels = replace(self.labels, id=in_namespace(self.namespace, self.labels.id))
            object.__setattr__(self, "labels", labels)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"experiment {self.name or 'without a name'}: {self.id}, {len(self.encoders)} encoders")

    @property
    def encoder_specs(self) -> tuple[EncoderSpec, ...]:
        """The specs of the encoders."""
        return tuple(EncoderSpec(each) if isinstance(each, str) else each for each in self.encoders)

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
        resolved = replace(self, encoders=self.encoder_specs, model=replace(self.model, threads=0))
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
    def selection(self) -> NamedSelection:
        """The selection for `select_contexts`. Raises ConfigError if the spec selects no contexts."""
        if self.contexts is None:
            raise ConfigError.because(f"experiment '{self.name}' selects no contexts", "write a table [contexts]")
        return NamedSelection(**vars(self.contexts), id=self.name, tables=self.located_tables)


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
