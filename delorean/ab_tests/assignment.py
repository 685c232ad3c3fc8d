"""Assigns cells to the units of a table, as the scorer would."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delorean.ab_tests.declaration import AbTest
from delorean.ab_tests.local_tables import local_batches
from schemas.errors import AbTestError, ConfigError
from schemas.plain_text import plain_text
from snapshotter.storage.table_source import TableSource

CELL = "cell"


@dataclass(frozen=True)
class Assignment:
    """How rows of a table are divided.

    cells: cell → rows; outside: rows of units that are not in the test
    path: of the Parquet file with the rows and their column `cell`, null outside; None: not written
    """

    test: str
    cells: Mapping[str, int]
    outside: int
    path: str | None

    def __repr__(self) -> str:
        """One line for people."""
        divided = ", ".join(f"{name} {count:,}" for name, count in self.cells.items())
        return plain_text(f"test {self.test}: {divided}, outside {self.outside:,}")


def assign(test: AbTest, source: TableSource, path: str | Path | None = None) -> Assignment:
    """Give the rows of a table their cells, some at a time, and write them with a column `cell`.

    path: of the new Parquet file, which appears when it is complete; None: only count

    Raises AbTestError for a table without the unit, with null units or a column `cell`, and ConfigError if the file
    exists.
    """
    schema, batches = local_batches(source.path, source)
    if path is not None and Path(path).exists():
        raise ConfigError.because(f"{path} exists", "name a new file")
    if path is not None and CELL in schema.names:
        raise AbTestError.because(f"table {source.path} has a column '{CELL}' already", "rename it")
    names = pa.array([*test.cells], pa.string())
    counts = np.zeros(len(test.cells) + 1, np.int64)
    partial = None if path is None else Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}")
    writer = None if partial is None else pq.ParquetWriter(partial, schema.append(pa.field(CELL, pa.string())))
    try:
        for batch in batches:
            cells = test.allocate(pa.Table.from_batches([batch]))
            counts += np.bincount(cells + 1, minlength=len(counts))
            if writer is not None:
                named = names.take(pa.array(np.where(cells >= 0, cells, 0), mask=cells < 0))
                writer.write_table(pa.Table.from_batches([batch]).append_column(CELL, named))
        if writer is not None and partial is not None and path is not None:
            writer.close()
            os.link(partial, path)
    finally:
        if writer is not None and partial is not None:
            writer.close()
            partial.unlink(missing_ok=True)
    return Assignment(
        test.name,
        dict(zip(test.cells, counts[1:].tolist(), strict=True)),
        int(counts[0]),
        None if path is None else str(path),
    )
