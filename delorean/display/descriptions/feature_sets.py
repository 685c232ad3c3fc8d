"""Describes label data and feature sets: what they hold, and how features are distributed in their first rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.display.bins import bin_edges
from delorean.display.description import describes
from delorean.display.descriptions.label_quality import merge_table
from delorean.display.formats import data_row
from delorean.display.parts import Code, Facts, Histogram, Note, Part, ShareBar, Table
from delorean.feature_sets.table import FeatureSet, open_table
from delorean.labels import TIME_COLUMN, WEIGHT_COLUMN, Labels
from delorean.state.adaptations import default_counts
from encoders.columns import one_array
from schemas.tables import python_rows
from schemas.vectors import is_vector, vector_matrix
from snapshotter.storage.delta_version import DeltaVersion

_MOST_FEATURES = 30
_SAMPLE_ROWS = 500
_FIRST_ROWS = 3


@describes(Labels)
def _labels(labels: Labels) -> Iterator[Part]:
    facts: dict[str, Any] = {
        "context": ", ".join(f"{key.name}: {key.type}" for key in labels.context),
        "items": ", ".join(f"{key.name}: {key.type}" for key in labels.items),
        "labels": ", ".join(labels.label_names) or "none",
        **({"weight": f"{WEIGHT_COLUMN}, of each item"} if labels.weighted else {}),
        **({"carried along": ", ".join(f"{each.name}: {each.type}" for each in labels.kept)} if labels.kept else {}),
        "times": f"{labels.earliest:%Y-%m-%d %H:%M} to {labels.latest:%Y-%m-%d %H:%M} UTC",
        "buckets": f"{labels.buckets} by {labels.bucket_variable}, in {len(labels.files)} files",
    }
    query = labels.source.get("spec", {}).get("query")
    if query is not None:
        facts["query"] = Code(" ".join(query.split()))
    yield Facts(facts)
    yield merge_table(labels.merged)


@describes(FeatureSet)
def _feature_set(features: FeatureSet) -> Iterator[Part]:
    if features.leaks is not None:
        yield Note(features.leaks.verdict, strong=features.leaks.is_loud)
    if features.copied:
        yield Facts({"copied": features.copied})
    if features.dropped:
        yield Facts({"dropped": f"{features.dropped:,} rows whose captures lie too far apart"})
    yield Table(
        [
            {"element": name, "rows_without": rows, "share": ShareBar(rows / features.rows if features.rows else None)}
            for name, rows in features.absent.items()
        ]
    )
    yield Table(features.impossible, "features that tasks cannot have")
    yield Table(features.spread.rows(), "how far apart captures of a row lie")
    yield Table(
        [
            {
                "field": f"{element}.{path}",
                "rows_with_default": rows,
                "share": ShareBar(rows / features.rows if features.rows else None),
                "until": until,
            }
            for (element, path), (rows, until) in default_counts(features.adapted).items()
        ],
        "fields that are newer than the captures",
    )
    names = features.features[:_MOST_FEATURES]
    keys = [*features.context, TIME_COLUMN, *features.items, *features.labels]
    version = DeltaVersion.of(open_table(features.uri, features.version), features.uri)
    rows = first_rows(version, [*keys, *names], _SAMPLE_ROWS)
    yield Table(_distributions(rows, names), f"features of the first {rows.num_rows:,} rows", len(features.features))
    first = rows.select([*keys, *names[:_FIRST_ROWS]]).slice(0, _FIRST_ROWS)
    yield Table([data_row(row) for row in python_rows(first)], "first rows", features.rows)
    yield from (Note(note) for note in features.notes)


def first_rows(version: DeltaVersion, columns: Sequence[str], most: int) -> pa.Table:
    """Read columns of a version's first rows, and no more than that takes."""
    parts: list[pa.RecordBatch] = []
    for batch in version.batches(columns, rows=most, ahead=False):
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= most:
            break
    schema = pa.schema([version.schema.field(name) for name in columns])
    return pa.Table.from_batches(parts, parts[0].schema if parts else schema).slice(0, most)


def _distributions(rows: pa.Table, features: Sequence[str]) -> list[dict[str, Any]]:
    return [{"feature": _shown(feature, rows), **distribution(float_values(rows[feature]))} for feature in features]


def _shown(feature: str, rows: pa.Table) -> str:
    """Return a feature's name, and that the norms of a vector are shown."""
    return f"{feature}: length of the vector" if is_vector(rows[feature].type.value_type) else feature


def distribution(values: NDArray[np.float32]) -> dict[str, Any]:
    """Return the fields of a table's row that show how values are distributed."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return {
        "distribution": _histogram(finite),
        "lowest": float(finite.min()) if len(finite) else None,
        "mean": float(finite.mean()) if len(finite) else None,
        "highest": float(finite.max()) if len(finite) else None,
        "unknown": ShareBar(float(np.isnan(values).mean()) if len(values) else None),
    }


def float_values(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return the values of a column of lists, concatenated; of vectors, their Euclidean norms, NaN where null."""
    values = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    if is_vector(values.type):
        norms: NDArray[np.float64] = np.linalg.norm(vector_matrix("", one_array(values)).astype(np.float64), axis=1)
        return norms.astype(np.float32)
    floats: NDArray[np.float32] = values.cast(pa.float32()).to_numpy().astype(np.float32)
    return floats


def _histogram(values: NDArray[np.float64]) -> Histogram:
    if not len(values):
        return Histogram(())
    edges = bin_edges(values)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return Histogram(counts.tolist(), f"from {edges[0]:.4g} to {edges[-1]:.4g}, the outermost 1 % at the edges")
