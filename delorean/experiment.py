"""An experiment's second half, as TOML: which labels, which features, which split, which model."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from delorean.generation import AsOf
from delorean.labels import LabelColumns
from delorean.training import Split
from encoders import FeatureEncoder, FeatureModel
from schemas.errors import ConfigError
from schemas.toml_file import read_toml
from snapshotter.experiments import TableSource


@dataclass(frozen=True)
class LabelSpec:
    """Where label data comes from and which columns mean what, see `LabelColumns`.

    query: Spark SQL over `[tables]` and any table that Spark knows
    id: a name for the label data once it is in buckets; the next run then finds it there and uses it as it is
    bucket_variable, buckets: None: chosen by what the labels are
    """

    query: str
    items: tuple[str, ...]
    context: tuple[str, ...] | None = None
    time: str = "time"
    label: str = "label"
    outcome_at: str = "outcome_at"
    id: str | None = None
    bucket_variable: str | None = None
    buckets: int | None = None

    @property
    def columns(self) -> LabelColumns:
        """Which columns mean what."""
        return LabelColumns(self.items, self.context, self.time, self.label, self.outcome_at)


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder, `module:name`, configured: its parameters, and other names for its features."""

    encoder: str
    parameters: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> FeatureEncoder:
        """Import the encoder. Raises ConfigError if it is not there."""
        found = _import(self.encoder, "encoder")
        if not isinstance(found, FeatureEncoder):
            raise ConfigError.because(f"{self.encoder} is a {type(found).__name__}", "put @feature_encoder on it")
        return found.configured(rename=self.rename, **self.parameters)


@dataclass(frozen=True)
class ModelSpec:
    """What is fitted: a scikit-learn estimator as `module:name` with its parameters; None: gradient boosted trees."""

    estimator: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def build(self) -> Any:
        """Make the estimator, or give None. Raises ConfigError if it cannot be made."""
        if self.estimator is None:
            return None
        try:
            return _import(self.estimator, "estimator")(**self.parameters)
        except TypeError as error:
            raise ConfigError.because(f"model.estimator {self.estimator}: {error}") from error


@dataclass(frozen=True)
class ExperimentSpec:
    """What `delorean generate` and `delorean train` do.

    name: of the feature set; by default the file's
    encoders: the feature model, encoder by encoder: "module:name", or a table with parameters and rename
    tables: names for the labels' query
    as_of: element → how old its state may be, see `AsOf`; durations as in "PT90S" or "P7D"
    """

    labels: LabelSpec
    encoders: tuple[str | EncoderSpec, ...]
    name: str = ""
    tables: Mapping[str, TableSource] = field(default_factory=dict)
    as_of: Mapping[str, AsOf] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    model: ModelSpec = ModelSpec()

    @property
    def feature_model(self) -> FeatureModel:
        """Import the encoders."""
        specs = [EncoderSpec(given) if isinstance(given, str) else given for given in self.encoders]
        return FeatureModel([spec.load() for spec in specs])

    @property
    def hash(self) -> str:
        """What the spec says, as a hash."""
        return hashlib.sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()


def load_experiment(path: Path) -> ExperimentSpec:
    """Read an experiment's spec. Tables' relative paths start at its folder.

    Raises ConfigError with the file and the field.
    """
    spec = read_toml(path, ExperimentSpec)
    root = path.resolve().parent
    tables = {
        name: source if urlsplit(source.path).scheme else replace(source, path=str(root / source.path))
        for name, source in spec.tables.items()
    }
    return replace(spec, name=spec.name or path.stem, tables=tables)


def _import(place: str, what: str) -> Any:
    module, _, name = place.partition(":")
    if not name:
        raise ConfigError.because(f"{what} '{place}' names no place", 'write "module:name"')
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError.because(
            f"{what} '{place}': {error}", "put its module beside delorean.toml, or install it"
        ) from error
    if not hasattr(loaded, name):
        raise ConfigError.unknown(f"{what} in {module}", name, [n for n in vars(loaded) if not n.startswith("_")])
    return getattr(loaded, name)
