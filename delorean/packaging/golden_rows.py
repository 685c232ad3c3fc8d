"""Golden rows: a few data maps with the features and scores that a model package must reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from encoders.data_map import ABSENT, DataMaps, Element
from schemas.errors import GoldenRowsError, PackageError
from schemas.nested_types import with_leaves
from schemas.tables import python_rows

_VALUES, _ROWS = "values of ", "rows of "
MOST_ROWS = 1 << 20  # contexts, and items


@dataclass(frozen=True)
class GoldenRows:
    """Data maps with the features and scores expected of them.

    features: (items, features) float32, in the feature model's order
    scores: (items,) float32
    probabilities: (items,) float32, NaN for items of tasks that are not calibrated; None: there are none
    """

    maps: DataMaps
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None

    def check_features(self, names: tuple[str, ...], actual: NDArray[np.float32]) -> None:
        """Raise GoldenRowsError unless every feature has the same bits; any NaN equals any other."""
        differs = (actual.view(np.uint32) != self.features.view(np.uint32)) & ~(
            np.isnan(actual) & np.isnan(self.features)
        )
        if differs.any():
            row, column = (int(i) for i in np.argwhere(differs)[0])
            raise self._differs(f"feature '{names[column]}'", row, actual[row, column], self.features[row, column])

    def check_scores(self, actual: NDArray[np.float32], tolerance: float) -> None:
        """Raise GoldenRowsError unless every score is within the relative tolerance; 0: unless it has the same bits."""
        differs = actual.view(np.uint32) != self.scores.view(np.uint32)
        if tolerance:
            differs &= ~(np.abs(actual.astype(np.float64) - self.scores) <= tolerance * (1 + np.abs(self.scores)))
        if differs.any():
            row = int(np.argmax(differs))
            raise self._differs("the score", row, actual[row], self.scores[row])

    def check_probabilities(self, actual: NDArray[np.float32]) -> None:
        """Raise GoldenRowsError unless every probability has the same bits; any NaN equals any other."""
        if self.probabilities is None:
            return
        differs = actual.view(np.uint32) != self.probabilities.view(np.uint32)
        differs &= ~(np.isnan(actual) & np.isnan(self.probabilities))
        if differs.any():
            row = int(np.argmax(differs))
            raise self._differs("the probability", row, actual[row], self.probabilities[row])

    def _differs(self, what: str, row: int, actual: np.float32, expected: np.float32) -> GoldenRowsError:
        context = int(np.searchsorted(self.maps.item_offsets, row, side="right")) - 1
        at = (self.maps.contexts.slice(context, 1), self.maps.items.slice(row, 1))
        variables = {name: value for table in at for name, value in python_rows(table)[0].items()}
        place = ", ".join(f"{name} {value}" for name, value in variables.items())
        return GoldenRowsError.because(
            f"golden row {row} ({place}): {what} is {actual!s}, expected {expected!s}",
            "install the encoders, and the versions of libraries, that the model was trained with",
        )


def take_contexts(maps: DataMaps, rows: NDArray[np.int64]) -> DataMaps:
    """Return the data maps of some contexts, with only the values of each element that they need."""
    first, lengths = maps.item_offsets[:-1][rows], np.diff(maps.item_offsets)[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    positions = np.concatenate([np.arange(f, f + n) for f, n in zip(first, lengths, strict=True)] or [rows])
    elements = {}
    for name, element in maps.elements.items():
        used, place = np.unique(element.rows[rows], return_inverse=True)
        absent = int((used == ABSENT).sum())
        elements[name] = Element(element.values.take(pa.array(used[absent:])), place.astype(np.int64) - absent)
    return DataMaps(maps.contexts.take(rows), maps.items.take(positions), offsets, elements)


def without_elements(maps: DataMaps) -> Iterator[DataMaps]:
    """Yield data maps as they are when services do not answer: without each element, and without all of them."""
    for absent in (*({name} for name in maps.elements), set(maps.elements)):
        elements = {
            name: Element(element.values, np.full_like(element.rows, ABSENT)) if name in absent else element
            for name, element in maps.elements.items()
        }
        yield replace(maps, elements=elements)


def write_data_maps(maps: DataMaps) -> bytes:
    """Write data maps as an Arrow IPC file with one row: a list for each of their parts, with its nested type."""
    parts = {
        "contexts": _rows_of(maps.contexts),
        "items": _rows_of(maps.items),
        "item_offsets": pa.array(maps.item_offsets, pa.int64()),
    }
    for name, element in maps.elements.items():
        parts[_VALUES + name] = element.values
        parts[_ROWS + name] = pa.array(element.rows, pa.int64())
    parts = {name: _decoded(array) for name, array in parts.items()}
    lists = {name: pa.ListArray.from_arrays(pa.array([0, len(a)], pa.int32()), a) for name, a in parts.items()}
    return write_arrow(pa.table(lists))


def read_data_maps(name: str, data: bytes) -> DataMaps:
    """Read what `write_data_maps` wrote. Raises PackageError that names the file."""
    table = read_arrow(name, data)
    lists = all(pa.types.is_list(field.type) for field in table.schema)
    if len(table) != 1 or not lists or not {"contexts", "items", "item_offsets"} <= set(table.schema.names):
        raise PackageError.because(f"'{name}' does not hold data maps")
    for field in table.schema:
        if not _is_plain(field.type):
            raise PackageError.because(
                f"'{name}' has '{field.name}' as {field.type}, expected values without dictionaries or runs"
            )
    parts = {column: table[column].combine_chunks().flatten() for column in table.schema.names}
    contexts, items = len(parts["contexts"]), len(parts["items"])
    if max(contexts, items) > MOST_ROWS or any(len(parts[part]) > contexts + 1 for part in {*parts} - {"items"}):
        raise PackageError.because(f"'{name}' has more than {MOST_ROWS} rows, or more values than contexts")
    try:
        elements = {
            column.removeprefix(_VALUES): Element(values, parts[_ROWS + column.removeprefix(_VALUES)].to_numpy())
            for column, values in parts.items()
            if column.startswith(_VALUES)
        }
        maps = DataMaps(
            pa.Table.from_struct_array(parts["contexts"]),
            pa.Table.from_struct_array(parts["items"]),
            parts["item_offsets"].to_numpy(),
            elements,
        )
        _check_rows(maps)
        return maps
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise PackageError.because(f"'{name}' does not hold data maps: {error}") from error


def _check_rows(maps: DataMaps) -> None:
    """Raise ValueError unless each context has a list of items, and each element at most one value per context."""
    offsets = maps.item_offsets
    if (
        len(offsets) != len(maps) + 1
        or offsets[0] != 0
        or offsets[-1] != len(maps.items)
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError("its items are not one list per context")
    for name, element in maps.elements.items():
        rows = element.rows
        if len(rows) != len(maps) or not ((rows >= 0) & (rows < len(element.values)) | (rows == ABSENT)).all():
            raise ValueError(f"'{name}' does not have one value, or none, per context")


def write_expected(
    features: NDArray[np.float32], scores: NDArray[np.float32], probabilities: NDArray[np.float32] | None = None
) -> bytes:
    """Write expected features, scores and probabilities as an Arrow IPC file, one row per item."""
    flat = pa.array(features.reshape(-1), pa.float32(), from_pandas=False)
    columns = {"features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])}
    for name, values in (("score", scores), ("probability", probabilities)):
        if values is not None:
            columns[name] = pa.array(values, pa.float32(), from_pandas=False)
    return write_arrow(pa.table(columns))


def read_expected(name: str, data: bytes, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the features and scores that `write_expected` wrote. Raises PackageError that names the file."""
    table = read_arrow(name, data)
    expected = pa.schema([("features", pa.list_(pa.float32(), width)), ("score", pa.float32())])
    if table.schema not in (expected, expected.append(pa.field("probability", pa.float32()))):
        raise PackageError.because(f"'{name}' does not hold {width} features and a score per row")
    flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width), table["score"].to_numpy()


def read_probabilities(name: str, data: bytes) -> NDArray[np.float32] | None:
    """Read the probabilities that `write_expected` wrote, None where there are none."""
    table = read_arrow(name, data)
    return table["probability"].to_numpy() if "probability" in table.schema.names else None


def write_arrow(table: pa.Table) -> bytes:
    """Write an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def open_arrow(name: str, data: bytes) -> pa.RecordBatchFileReader:
    """Open an Arrow IPC file without decompressing anything. Raises PackageError that names it."""
    try:
        return pa.ipc.open_file(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise PackageError.because(f"'{name}' is not an Arrow file: {error}") from error


def read_arrow(name: str, data: bytes) -> pa.Table:
    """Read an Arrow IPC file and validate it fully. Raises PackageError that names it."""
    opened = open_arrow(name, data)
    try:
        table = opened.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise PackageError.because(f"'{name}' is not an Arrow file: {error}") from error
    return table


def _rows_of(table: pa.Table) -> pa.Array:
    rows = table.combine_chunks().to_struct_array()
    return rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows


def _decoded(array: pa.Array) -> pa.Array:
    """Expand dictionaries and runs to plain values."""
    plain = with_leaves(array.type, _decoded_type)
    return array if plain == array.type else array.cast(plain)


def _decoded_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return with_leaves(type_.value_type, _decoded_type)
    return type_


def _is_plain(type_: pa.DataType) -> bool:
    """Return whether each value takes memory of its own, so that a small file cannot hold an enormous number."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _is_plain(type_.value_type)
    if pa.types.is_struct(type_):
        return type_.num_fields > 0 and all(_is_plain(field.type) for field in type_)
    return bool(
        pa.types.is_primitive(type_)
        or pa.types.is_decimal(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
    )
