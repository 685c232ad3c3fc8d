"""A stored feature set for checking: its lineage, and its files in small batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from delorean.feature_sets.columns import LATEST_INPUT_COLUMN, captured_column
from delorean.feature_sets.part_sources import sources_lineage
from delorean.feature_sets.table import open_table
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, TIME_COLUMN, WEIGHT_COLUMN
from schemas.errors import ConfigError
from schemas.tables import TIME
from snapshotter.storage.delta_version import DeltaVersion

_BATCH_ROWS = 8_192
_LINEAGE = ("features", "context", "items", "snapshots", "globals", "rules")


@dataclass(frozen=True)
class StoredFeatureSet:
    """One version of a feature set.

    lineage: its recorded sources
    data: its columns and files
    """

    lineage: Mapping[str, Any]
    data: DeltaVersion

    @property
    def features(self) -> list[str]:
        """The features' columns."""
        return list(self.lineage["features"])

    @property
    def context(self) -> list[str]:
        """The context variables' columns."""
        return [key["name"] for key in self.lineage["context"]]

    @property
    def items(self) -> list[str]:
        """The item variables' columns."""
        return [key["name"] for key in self.lineage["items"]]

    @property
    def labels(self) -> list[str]:
        """The labels' columns; older feature sets have one."""
        return list(self.lineage.get("label_columns", [LABEL_COLUMN]))

    @property
    def of_items(self) -> list[str]:
        """The columns with a list of as many values as a row has items, first one that every row must have."""
        weight = [WEIGHT_COLUMN] if self.lineage.get("weighted") else []
        return [*self.labels, *self.items, *weight, *self.features]

    @property
    def services(self) -> list[str]:
        """The service elements."""
        return list(self.lineage["snapshots"])

    @property
    def globals(self) -> list[str]:
        """The global elements."""
        return list(self.lineage["globals"])

    @property
    def from_services(self) -> list[str]:
        """The features whose encoders read a service element."""
        encoders = self.lineage.get("encoders", [])
        names = {name for each in encoders if set(each["data"]) & set(self.services) for name in each["features"]}
        return [name for name in self.features if name in names]

    @cached_property
    def rows(self) -> int:
        """Number of rows, according to the files."""
        return self.data.rows

    def has(self, *columns: str) -> bool:
        """Return whether it has all these columns: older feature sets lack some."""
        return set(columns) <= set(self.data.schema.names)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read columns (None: all) file by file, a few thousand rows at a time.

        Raises MissingFileError, CorruptFileError for a missing or changed file.
        """
        # Reading ahead would need unbounded memory.
        for batch in self.data.batches(columns, rows=_BATCH_ROWS, ahead=False):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])


def open_feature_set(uri: str, version: int | None) -> StoredFeatureSet:
    """Open a version of a feature set; None: the newest.

    Raises ConfigError for what is not a feature set, has no lineage or lacks a column that every feature set has.
    """
    data = DeltaVersion.of(open_table(uri, version), uri)
    lineage = sources_lineage(uri, data.version)
    for name in _LINEAGE:
        if name not in lineage:
            raise ConfigError.because(
                f"the lineage of {uri} does not record '{name}'", "generate the feature set again"
            )
    stored = StoredFeatureSet(lineage, data)
    _require_columns(stored)
    return stored


def _require_columns(stored: StoredFeatureSet) -> None:
    elements = [*stored.services, *stored.globals]
    for name in stored.context:
        _type_of(stored, name)
    outcome = [OUTCOME_COLUMN] if stored.labels else []
    for name in (TIME_COLUMN, *outcome, LATEST_INPUT_COLUMN, *map(captured_column, elements)):
        if (type := _type_of(stored, name)) != TIME:  # noqa: A001  # the field's own name
            raise ConfigError.because(f"column '{name}' of {stored.data.uri} is {type}, expected {TIME}")
    for name in stored.of_items:
        if not pa.types.is_list(type := _type_of(stored, name)):  # noqa: A001
            raise ConfigError.because(f"column '{name}' of {stored.data.uri} is {type}, expected a list")


def _type_of(stored: StoredFeatureSet, column: str) -> pa.DataType:
    schema = stored.data.schema
    if column not in schema.names:
        raise ConfigError.unknown(f"column in the feature set {stored.data.uri}:", column, schema.names)
    return schema.field(column).type
