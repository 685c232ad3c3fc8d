"""An experiment as TOML or Python: which contexts and labels, which features of which state, which split and model."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from delorean.labels import LabelColumns
from delorean.labels.column_types import TimeUnit
from delorean.leaks import LeakThresholds
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.training import Split
from delorean.training.missing_values import with_imputer
from encoders import FeatureEncoder, FeatureModel
from encoders.feature_model import node_of
from encoders.graph import EncoderNode, feature_graph
from encoders.project_modules import refuse_hidden
from schemas.display import Code, Displayed, Facts, Headline, Note, Part
from schemas.errors import ConfigError, DeloreanError
from snapshotter.selection.experiments import Experiment
from snapshotter.storage.table_source import TableSource


@dataclass(frozen=True)
class ContextsSpec:
    """Which contexts are captured for the experiment, see `snapshotter.selection.experiments.Experiment`."""

    query: str
    key: tuple[str, ...]
    strata: tuple[str, ...] = ()
    quota: int | Mapping[str, Any] | None = None
    fraction: float | None = None
    seed: int = 0

    def experiment(self, name: str, tables: Mapping[str, TableSource]) -> Experiment:
        """Give what `select_contexts` takes. Raises ConfigError for what cannot be selected."""
        return Experiment(name, **vars(self), tables=tables)


@dataclass(frozen=True)
class LabelSpec:
    """Where label data comes from and which columns mean what, see `LabelColumns`.

    query: Spark SQL over `[tables]` and any table that Spark knows
    table: the name of one such table, instead of a query
    time_unit: what integers in the columns of times mean: "s", "ms", "us", "ns" or "day" since 1970, in UTC; by "day" a
        date counts too, as the moment when it begins in UTC
    id: a name for the label data once it is in buckets; the next run then finds it there and uses it as it is
    bucket_variable, buckets: None: chosen by what the labels are
    """

    items: tuple[str, ...]
    query: str | None = None
    table: str | None = None
    context: tuple[str, ...] | None = None
    time: str = "time"
    label: str = "label"
    outcome_at: str = "outcome_at"
    time_unit: TimeUnit | None = None
    id: str | None = None
    bucket_variable: str | None = None
    buckets: int | None = None

    def __post_init__(self) -> None:
        """Refuse label data from nowhere or from two places."""
        if (self.query is None) == (self.table is None):
            raise ConfigError.because("labels need either a query or a table", 'write query = "SELECT …"')

    @property
    def columns(self) -> LabelColumns:
        """Which columns mean what."""
        return LabelColumns(self.items, self.context, self.time, self.label, self.outcome_at, self.time_unit)

    @property
    def sql(self) -> str:
        """The query, also where a table is named."""
        return self.query if self.query is not None else f"TABLE {self.table}"


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder, `module:name`, configured: its parameters, and other names for its features."""

    encoder: str
    parameters: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: FeatureEncoder) -> EncoderSpec:
        """Name an encoder with the parameters that differ from what its source says."""
        defaults = encoder.function.__kwdefaults__ or {}
        changed = {name: value for name, value in encoder.parameters.items() if value != defaults.get(name)}
        return cls(encoder.name, changed, dict(encoder.rename))

    def load(self) -> FeatureEncoder:
        """Import the encoder. Raises ConfigError if it is not there."""
        found = _import(self.encoder, "encoder")
        if not isinstance(found, FeatureEncoder):
            raise ConfigError.because(f"{self.encoder} is a {type(found).__name__}", "put @feature_encoder on it")
        return found.configured(rename=self.rename, **self.parameters)


@dataclass(frozen=True)
class ModelSpec:
    """What is fitted: a scikit-learn estimator as `module:name` with its parameters; None: gradient boosted trees.

    weight: a column of the feature set that weighs each context in training, such as `confidence`
    max_items: of a feature set with more items, contexts are sampled by a seeded hash, so that memory stays bounded;
        the report counts what was not read
    impute: what stands for a missing feature, as learned in training, for estimators that take no missing values
    """

    estimator: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weight: str | None = None
    seed: int = 0
    max_items: int = 20_000_000
    impute: Literal["mean", "median", "most_frequent"] | None = None

    def __post_init__(self) -> None:
        """Refuse a sample of nothing."""
        if self.max_items < 1:
            raise ConfigError.because(f"model.max_items is {self.max_items}, expected 1 or more")

    @property
    def name(self) -> str:
        """What people call it."""
        return "gradient boosted trees" if self.estimator is None else self.estimator.rpartition(":")[2]

    def build(self) -> Any:
        """Make the estimator, or give None. Raises ConfigError if it cannot be made."""
        if self.estimator is None:
            if self.impute is not None:
                raise ConfigError.because("model.impute without model.estimator", "name one: boosted trees need none")
            return None
        try:
            estimator = _import(self.estimator, "estimator")(**self.parameters)
        except TypeError as error:
            raise ConfigError.because(f"model.estimator {self.estimator}: {error}") from error
        return estimator if self.impute is None else with_imputer(estimator, self.impute)


@dataclass(frozen=True)
class ScheduleSpec:
    """When the experiment is trained by itself; its features are made each day.

    training: each Monday, each day, or never
    """

    training: Literal["weekly", "daily", "never"] = "weekly"


@dataclass(frozen=True, repr=False)
class ExperimentSpec(Displayed):
    """One experiment, whole: the same in Python as in TOML. What it says is its id.

    name: of the feature set; by default the file's
    encoders: the feature model, encoder by encoder: "module:name", or a table with parameters and rename; in Python
        also the encoders themselves
    contexts: which contexts `delorean select` captures for it; None: others select them
    tables: names for the queries
    as_of: element → how old its state may be, see `AsOf`; durations as in "PT90S" or "P7D"
    confidence: element → how complete the runs that serve it must be
    spread: how far apart the captures of one row may lie
    leaks: from when on a feature predicts its label implausibly well, and whether that fails a run
    schedule: when it is trained by itself, no part of what the spec says either
    folder: where relative paths of tables start; by default the file's. It is no part of what the spec says

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
    contexts: ContextsSpec | None = None
    tables: Mapping[str, TableSource] = field(default_factory=dict)
    as_of: Mapping[str, AsOf] = field(default_factory=dict)
    confidence: Mapping[str, ConfidenceFloor] = field(default_factory=dict)
    spread: SpreadLimit | None = None
    leaks: LeakThresholds = field(default_factory=LeakThresholds)
    split: Split = field(default_factory=Split)
    model: ModelSpec = ModelSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    folder: str = ""

    def __post_init__(self) -> None:
        """Name encoders that are given themselves."""
        named = [EncoderSpec.of(each) if isinstance(each, FeatureEncoder) else each for each in self.encoders]
        object.__setattr__(self, "encoders", tuple(named))

    def graph(self, elements: Mapping[str, str] | None = None) -> Iterator[Part]:
        """Draw what it is made from, and say which encoders cannot be imported here.

        elements: name → what served it, such as "6 snapshots"
        """
        nodes, kinds, unknown = [], dict(elements or {}), []
        for spec in self.encoder_specs:
            try:
                encoder = spec.load()
            except DeloreanError as error:
                nodes.append(EncoderNode(spec.encoder, (), tuple(spec.rename.values()) or ("?",)))
                unknown.append(Note(str(error), strong=True))
            else:
                nodes.append(node_of(encoder))
                for key in encoder.data:
                    kinds.setdefault(key.name, key.kind.value.removesuffix("_element"))
        labels = self.labels.id or self.labels.table or "of a query"
        yield feature_graph(nodes, kinds, f"labels {labels}", self.model.name)
        yield from unknown

    def _headline(self) -> Headline:
        return Headline("experiment", self.name or "without a name", f"{self.id}, {len(self.encoders)} encoders")

    def _parts(self) -> Iterator[Part]:
        yield from self.graph()
        told = self.to_json()
        rest = {name: told[name] for name in told if name not in ("name", "labels", "encoders", "contexts")}
        wanted = {"contexts": self.contexts.query} if self.contexts is not None else {}
        queries = {name: Code(" ".join(text.split())) for name, text in ({"labels": self.labels.sql} | wanted).items()}
        yield Facts({**queries, "items": self.labels.items, "context": self.labels.context, **rest})

    @property
    def encoder_specs(self) -> tuple[EncoderSpec, ...]:
        """The encoders, each as a table."""
        return tuple(EncoderSpec(each) if isinstance(each, str) else each for each in self.encoders)

    @property
    def feature_model(self) -> FeatureModel:
        """Import the encoders."""
        return FeatureModel([spec.load() for spec in self.encoder_specs])

    @property
    def id(self) -> str:
        """What the spec says, as a hash: however it is written down, and whatever it leaves to defaults."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Write what is not by default, as plain fields."""
        said: dict[str, Any] = _said(replace(self, encoders=self.encoder_specs, schedule=ScheduleSpec(), folder=""))
        return said

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ExperimentSpec:
        """Read what `to_json` wrote. Raises ConfigError."""
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise ConfigError.because(f"this is no experiment: {error}") from error

    @property
    def located_tables(self) -> dict[str, TableSource]:
        """Give the tables with relative paths made absolute."""
        return {name: source.beside(Path(self.folder) / "spec.toml") for name, source in self.tables.items()}

    @property
    def selection(self) -> Experiment:
        """What `select_contexts` takes. Raises ConfigError if the spec selects no contexts."""
        if self.contexts is None:
            raise ConfigError.because(f"experiment '{self.name}' selects no contexts", "write a table [contexts]")
        return self.contexts.experiment(self.name, self.located_tables)


def _said(value: Any) -> Any:
    """Give plain fields, leaving out those of dataclasses that are as by default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        said = {}
        for each in dataclasses.fields(value):
            given = getattr(value, each.name)
            default = each.default_factory() if callable(each.default_factory) else each.default
            if given != default:
                said[each.name] = _said(given)
        return said
    if isinstance(value, Mapping):
        return {name: _said(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_said(inner) for inner in value]
    return msgspec.to_builtins(value)


def _import(place: str, what: str) -> Any:
    module, _, name = place.partition(":")
    if not name:
        raise ConfigError.because(f"{what} '{place}' names no place", 'write "module:name"')
    refuse_hidden(module)
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError.because(
            f"{what} '{place}': {error}", "put its module beside delorean.toml, or install it"
        ) from error
    if not hasattr(loaded, name):
        known = [
            n for n, value in vars(loaded).items() if isinstance(value, FeatureEncoder if what == "encoder" else type)
        ]
        raise ConfigError.unknown(f"{what} in {module}", name, known)
    return getattr(loaded, name)
