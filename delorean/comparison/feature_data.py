"""The feature sets that packages are compared on, and whether they have what a package needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

import pyarrow as pa

from delorean.feature_sets.table import FeatureSet, lineage_of, open_table
from delorean.packaging.package import ModelPackage
from delorean.state.rules import AsOf
from schemas.errors import ComparisonError, ConfigError
from snapshotter.storage.delta_version import DeltaVersion

FeatureSource: TypeAlias = FeatureSet | tuple[str, int | None] | str | pa.Table


@dataclass(frozen=True)
class FeatureData:
    """A version of a feature set, or a table of the same columns.

    source, version: as `read_feature_set` takes them
    lineage: of a feature set that DeLorean generated, otherwise empty
    """

    name: str
    source: str | pa.Table
    version: int | None
    schema: pa.Schema
    lineage: Mapping[str, Any]

    @classmethod
    def of(cls, source: FeatureSource, name: str = "a table", lineage: Mapping[str, Any] | None = None) -> Self:
        """Open a feature set. Raises ConfigError for one that does not exist."""
        if isinstance(source, pa.Table):
            return cls(name, source, None, source.schema, lineage or {})
        if isinstance(source, FeatureSet):
            source = (source.uri, source.version)
        uri, version = (source, None) if isinstance(source, str) else source
        stored = DeltaVersion.of(open_table(uri, version), uri)
        folder = urlsplit(uri).path.rstrip("/").rsplit("/", 1)[-1]
        try:
            recorded = lineage_of(uri, stored.version)
        except ConfigError:  # it was written by something else
            recorded = {}
        return cls(f"{folder}, version {stored.version}", uri, stored.version, stored.schema, recorded)

    @property
    def label_names(self) -> list[str]:
        """The names of its labels."""
        return list(self.lineage.get("label_columns", ["label"] if "label" in self.schema.names else []))

    def problem_for(self, package: ModelPackage, who: str) -> str | None:
        """Return why a package's features are not in it; None: they are."""
        for name in package.features:
            if name not in self.schema.names:
                return f"{self.name} does not have feature '{name}' of {who}"
        own = _fingerprints((encoder.features, encoder.fingerprint) for encoder in package.feature_model.encoders)
        stored = _fingerprints((each["features"], each["fingerprint"]) for each in self.lineage.get("encoders", ()))
        for name, fingerprint in own.items():
            if stored.get(name, fingerprint) != fingerprint:
                return f"feature '{name}' of {self.name} was computed by another encoder than that of {who}"
        return None

    def require(self, package: ModelPackage, who: str) -> None:
        """Raise ComparisonError unless it has a package's variables, and its features from the same encoders."""
        for key in (*package.context, *package.items):
            if key.name not in self.schema.names:
                raise ComparisonError.unknown(
                    f"column of {self.name}, a variable of {who}", key.name, self.schema.names
                )
        problem = self.problem_for(package, who)
        if problem is not None:
            raise ComparisonError.because(
                problem,
                "name a feature set for each, or label data for which the features of both are computed: --labels ID",
            )

    def notes_on(self, package: ModelPackage, who: str) -> list[str]:
        """Return what of the data may differ from what a package is served with."""
        if not self.lineage:
            return [f"{self.name} has no lineage: whether its features are those of {who} was checked by name only"]
        stored = {name: AsOf.from_json(rule) for name, rule in self.lineage.get("rules", {}).items()}
        differing = [
            name
            for name in package.feature_model.elements
            if name in stored and stored[name] != package.rules.get(name, AsOf())
        ]
        return [f"{self.name} follows another as-of rule than {who} for {', '.join(differing)}"] if differing else []


def _fingerprints(encoders: Iterable[tuple[Iterable[str], str]]) -> dict[str, str]:
    """Return the fingerprint of each feature's encoder."""
    return {feature: fingerprint for features, fingerprint in encoders for feature in features}
