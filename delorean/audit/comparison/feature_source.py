"""One side of a comparison: the files of a feature set, or a table treated as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as ds

from delorean.feature_sets.table import FeatureSet, lineage_of, open_table
from delorean.labels import LABEL_COLUMN
from snapshotter.storage.delta_version import DeltaVersion

FeatureSource: TypeAlias = FeatureSet | tuple[str, int | None] | str | pa.Table
File: TypeAlias = ds.ParquetFileFragment | pa.Table
_BATCH_ROWS = 16_384


@dataclass
class ComparedSide:
    """One of the two sides: the files of a version, or a table treated as one.

    keys: names of the `context` and `items` variables, the `features` and the `labels`, if there is a lineage
    """

    name: str
    source: DeltaVersion | pa.Table
    keys: dict[str, list[str]]

    @classmethod
    def of(cls, source: FeatureSource, *, lineage: bool) -> ComparedSide:
        """Open a source. lineage: whether its keys are read from its lineage. Raises ConfigError without one."""
        if isinstance(source, pa.Table):
            return cls("a table", source, {})
        if isinstance(source, FeatureSet):
            source = (source.uri, source.version)
        uri, version = (source, None) if isinstance(source, str) else source
        stored = DeltaVersion.of(open_table(uri, version), uri)
        name = f"{urlsplit(uri).path.rstrip('/').rsplit('/', 1)[-1]} version {stored.version}"
        if not lineage:
            return cls(name, stored, {})
        recorded: dict[str, Any] = lineage_of(uri, stored.version)
        keys = {what: [key["name"] for key in recorded[what]] for what in ("context", "items")}
        labels = recorded.get("label_columns", [LABEL_COLUMN])
        return cls(name, stored, {**keys, "features": recorded["features"], "labels": labels})

    @property
    def schema(self) -> pa.Schema:
        """Schema of the columns."""
        return self.source.schema

    def features(self, items: Sequence[str]) -> list[str]:
        """Return the features: those of the lineage, or all lists of floats or of vectors that have no other role."""
        if "features" in self.keys:
            return self.keys["features"]
        floats = (pa.float32(), pa.list_(pa.float32()))
        lists = [f.name for f in self.schema if f.type in (*map(pa.list_, floats), *map(pa.large_list, floats))]
        return [name for name in lists if name not in (LABEL_COLUMN, *items)]

    @property
    def labels(self) -> list[str]:
        """The labels' columns: those of the lineage, or `label`."""
        return self.keys.get("labels", [LABEL_COLUMN])

    def files(self) -> list[File]:
        """Return the files."""
        return list(self.source.files) if isinstance(self.source, DeltaVersion) else [self.source]

    def read(self, file: File, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns of a file, few rows at a time. Raises MissingFileError, CorruptFileError."""
        if isinstance(self.source, DeltaVersion):
            yield from self.source.read(file, columns)
        else:
            yield from file.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)
