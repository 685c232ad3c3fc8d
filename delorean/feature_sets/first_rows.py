"""Reads the first rows of a feature set."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from snapshotter.storage.delta_version import DeltaVersion


def first_rows(version: DeltaVersion, columns: Sequence[str], most: int) -> pa.Table:
    """Read columns of the first rows, and no more than that takes."""
    parts: list[pa.RecordBatch] = []
    for batch in version.batches(columns, rows=most, ahead=False):
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= most:
            break
    schema = pa.schema([version.schema.field(name) for name in columns])
    return pa.Table.from_batches(parts, parts[0].schema if parts else schema).slice(0, most)
