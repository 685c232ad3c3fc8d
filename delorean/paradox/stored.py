"""A stored feature set as the check reads it: its lineage, and its files in small batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from delorean.generation.feature_set import lineage_of, open_table
from delorean.generation.plan import LATEST_INPUT_COLUMN, captured_column
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, TIME_COLUMN
from schemas.errors import ConfigError, MissingFileError
from schemas.tables import TIME

_BATCH_ROWS = 8_192
_LINEAGE = ("features", "context", "items", "snapshots", "globals", "rules")


@dataclass(frozen=True)
class StoredFeatureSet:
    """One version of a feature set.

    lineage: what it says it was made from
    schema: of its columns
    files: of the version, to be read in any order
    """

    uri: str
    version: int
    lineage: Mapping[str, Any]
    schema: pa.Schema
    files: tuple[ds.ParquetFileFragment, ...]

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
    def services(self) -> list[str]:
        """The elements that services answered with."""
        return list(self.lineage["snapshots"])

    @property
    def globals(self) -> list[str]:
        """The global elements."""
        return list(self.lineage["globals"])

    @property
    def from_services(self) -> list[str]:
        """The features whose encoders read what a service answered."""
        encoders = self.lineage.get("encoders", [])
        found = {name for each in encoders if set(each["data"]) & set(self.services) for name in each["features"]}
        return [name for name in self.features if name in found]

    @cached_property
    def rows(self) -> int:
        """Number of rows, as the files have it."""
        return sum(self._read(file.count_rows) for file in self.files)

    def has(self, *columns: str) -> bool:
        """Tell whether it has all these columns: older feature sets lack some."""
        return set(columns) <= set(self.schema.names)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read columns (None: all) file by file, a few thousand rows at a time.

        Raises MissingFileError for a file that is gone.
        """
        options = ds.ParquetFragmentScanOptions(pre_buffer=False)  # reading far ahead would not stay bounded
        for file in self.files:
            found = self._read(
                lambda file=file: file.to_batches(
                    schema=self.schema,
                    columns=None if columns is None else list(columns),
                    batch_size=_BATCH_ROWS,
                    batch_readahead=2,
                    fragment_scan_options=options,
                )
            )
            while (batch := self._read(lambda found=found: next(found, None))) is not None:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])

    def _read(self, step: Any) -> Any:
        try:
            return step()
        except FileNotFoundError as error:
            raise MissingFileError.because(
                f"a file of version {self.version} of {self.uri} is gone: {error}", "a vacuum may have removed it"
            ) from error


def open_stored(uri: str, version: int | None) -> StoredFeatureSet:
    """Open a version of a feature set; None: the newest.

    Raises ConfigError for what is no feature set, has no lineage or lacks a column that every feature set has.
    """
    table = open_table(uri, version)
    dataset = table.to_pyarrow_dataset()
    found = int(table.version())
    lineage = lineage_of(uri, found)
    for name in _LINEAGE:
        if name not in lineage:
            raise ConfigError.because(f"the lineage of {uri} does not say '{name}'", "generate the feature set again")
    files = sorted(dataset.get_fragments(), key=lambda file: file.path)  # so that examples are always the same
    stored = StoredFeatureSet(uri, found, lineage, dataset.schema, tuple(files))
    _require_columns(stored)
    return stored


def _require_columns(stored: StoredFeatureSet) -> None:
    elements = [*stored.services, *stored.globals]
    for name in stored.context:
        _type_of(stored, name)
    for name in (TIME_COLUMN, OUTCOME_COLUMN, LATEST_INPUT_COLUMN, *map(captured_column, elements)):
        if _type_of(stored, name) != TIME:
            raise ConfigError.because(f"column '{name}' of {stored.uri} is {_type_of(stored, name)}, expected {TIME}")
    for name in (*stored.items, LABEL_COLUMN, *stored.features):
        if not pa.types.is_list(_type_of(stored, name)):
            raise ConfigError.because(f"column '{name}' of {stored.uri} is {_type_of(stored, name)}, expected a list")


def _type_of(stored: StoredFeatureSet, column: str) -> pa.DataType:
    if column not in stored.schema.names:
        raise ConfigError.unknown(f"column in the feature set {stored.uri}:", column, stored.schema.names)
    return stored.schema.field(column).type
