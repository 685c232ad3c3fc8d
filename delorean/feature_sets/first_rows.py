"""A look into a feature set: its first rows, and how each feature is distributed over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.drawing import Histogram, Share
from schemas.tables import python_rows
from snapshotter.storage.delta_version import DeltaVersion

_BINS = 24
_VALUES = 3  # of a list that stand for all


def first_rows(version: DeltaVersion, columns: Sequence[str], most: int) -> pa.Table:
    """Read columns of the first rows, and no more than that takes."""
    parts: list[pa.RecordBatch] = []
    for file in version.files:
        for batch in version.read(file, columns, rows=most, ahead=False):
            parts.append(batch)
            if sum(part.num_rows for part in parts) >= most:
                break
        if sum(part.num_rows for part in parts) >= most:
            break
    schema = pa.schema([version.schema.field(name) for name in columns])
    return pa.Table.from_batches(parts, parts[0].schema if parts else schema).slice(0, most)


def distributions(rows: pa.Table, features: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give a table's row for each feature: how its values are spread, and for how many items it is not known."""
    for feature in features:
        values = _floats(rows[feature])
        known = values[np.isfinite(values)].astype(np.float64)
        yield {
            "feature": feature,
            "distribution": _histogram(known),
            "lowest": float(known.min()) if len(known) else None,
            "mean": float(known.mean()) if len(known) else None,
            "highest": float(known.max()) if len(known) else None,
            "unknown": Share(float(np.isnan(values).mean()) if len(values) else None),
        }


def shortened(rows: pa.Table) -> list[dict[str, Any]]:
    """Give rows as plain values, of lists the first ones."""
    return [{name: _short(value) for name, value in row.items()} for row in python_rows(rows)]


def _short(value: Any) -> Any:
    if not isinstance(value, list):
        return str(value) if isinstance(value, int) else value  # mostly an id
    shown = ", ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in value[:_VALUES])
    return shown + (f", … ({len(value)})" if len(value) > _VALUES else "")


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    values = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    found: NDArray[np.float32] = values.cast(pa.float32()).to_numpy().astype(np.float32)
    return found


def _histogram(known: NDArray[np.float64]) -> Histogram:
    """Count over all but the outermost values; whole numbers get bins with equally many of them in each."""
    if not len(known):
        return Histogram(())
    low, high = np.percentile(known, [0.5, 99.5])
    if np.all(known == np.round(known)):
        step = np.ceil((high - low + 1) / _BINS)
        edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + step, step)
    else:
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    return Histogram(counts.tolist(), f"from {low:.4g} to {high:.4g}, the outermost 1 % at the edges")
