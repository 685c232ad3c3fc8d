"""One side of a comparison: the files of a feature set, or a table as if it were one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake.exceptions import DeltaError

from delorean.generation.feature_set import FeatureSet, lineage_of, open_table
from delorean.labels import LABEL_COLUMN
from schemas.errors import MissingFileError, StorageError

Source: TypeAlias = FeatureSet | tuple[str, int | None] | str | pa.Table
_BATCH_ROWS = 16_384


@dataclass
class Side:
    """One of the two: its files, or one table's batches as if it were a file.

    keys: names of the `context` and `items` variables and of the `features`, where there is a lineage
    """

    name: str
    dataset: ds.Dataset
    keys: dict[str, list[str]]

    @classmethod
    def of(cls, source: Source, *, lineage: bool) -> Side:
        """Open a source. lineage: whether it must say of itself what its keys are. Raises ConfigError."""
        if isinstance(source, pa.Table):
            return cls("a table", ds.dataset(source), {})
        if isinstance(source, FeatureSet):
            source = (source.uri, source.version)
        uri, version = (source, None) if isinstance(source, str) else source
        table = open_table(uri, version)
        dataset = table.to_pyarrow_dataset()
        name = f"{uri.partition('?')[0].rstrip('/').rsplit('/', 1)[-1]} version {table.version()}"
        if not lineage:
            return cls(name, dataset, {})
        found: dict[str, Any] = lineage_of(uri, table.version())
        keys = {what: [key["name"] for key in found[what]] for what in ("context", "items")}
        return cls(name, dataset, {**keys, "features": found["features"]})

    def features(self, items: Sequence[str]) -> list[str]:
        """Name the features: those of the lineage, or all lists of floats that are nothing else."""
        if "features" in self.keys:
            return self.keys["features"]
        schema: pa.Schema = self.dataset.schema
        lists = [f.name for f in schema if f.type in (pa.list_(pa.float32()), pa.large_list(pa.float32()))]
        return [name for name in lists if name not in (LABEL_COLUMN, *items)]

    def files(self) -> list[ds.Fragment]:
        """Give its files."""
        return list(self.dataset.get_fragments())

    def read(self, file: ds.Fragment, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns of a file, few rows at a time. Raises MissingFileError, StorageError."""
        try:
            yield from file.to_batches(
                schema=self.dataset.schema, columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=2
            )
        except FileNotFoundError as error:
            raise MissingFileError.because(
                f"{self.name}: file '{file.path}' is gone",
                "it was vacuumed away or deleted: generate the features again",
            ) from error
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise StorageError.because(f"{self.name} cannot be read: {error}") from error
