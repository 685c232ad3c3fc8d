"""Converts Arrow arrays to the flat NumPy columns that encoders read slices of, without copying where possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from encoders.layout import (
    BOOLEAN,
    FLOAT,
    OBJECT,
    TEXT,
    Column,
    ColumnPath,
    Layout,
    ListLayout,
    ScalarLayout,
    StructLayout,
)
from schemas.errors import DataKeyError
from schemas.hashing import text_codes
from schemas.nulls import is_text, may_be_null
from schemas.tables import TIME, refuse_hidden_nulls

Columns = dict[ColumnPath, NDArray[Any]]


def flatten(name: str, node: Layout, values: pa.Array) -> Columns:
    """Convert distinct values of an element to the columns of its layout.

    64-bit integers, doubles and times are views of Arrow's buffers; narrower numbers are widened, texts become codes or
    objects. Raises DataKeyError for a null inside a value that encoders cannot read.
    """
    flattened = _Flattening()
    flattened.add(node, values, None)
    if flattened.nulls:  # rare, and maybe in no value at all: for example below a list that is null as a whole
        refuse_hidden_nulls(name, values)
    return flattened.columns


def variable_column(name: str, column: Column, values: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """Convert a context's or an item's variable to its column.

    Raises DataKeyError for a null that encoders cannot read.
    """
    array = one_array(values)
    if array.null_count and not may_be_null(array.type):
        row = pc.index(array.is_null(), True).as_py()
        raise DataKeyError.because(
            f"'{name}' is null in row {row}: encoders cannot read a null {array.type}", "leave the row out"
        )
    return _scalars(column, array)


def one_array(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Give a column as one array, copying only if it has several chunks."""
    if not isinstance(values, pa.ChunkedArray):
        return values
    return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Give a read-only view, so that no encoder changes another's input and all inputs have one Numba type.

    Unaligned data, as in some messages from sockets, is copied.
    """
    if not array.flags.aligned:
        array = array.copy()
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


class _Flattening:
    """Walks a layout and an array in parallel. nulls: whether a null was seen that encoders cannot read."""

    def __init__(self) -> None:
        self.columns: Columns = {}
        self.nulls = False

    def add(self, node: Layout, array: pa.Array, bounds: NDArray[np.int64] | None) -> None:
        """Add the columns of a layout.

        bounds: within a list, the start and end of each outermost value in this array; None outside
        """
        if isinstance(node, ScalarLayout):
            self.nulls |= bounds is not None and array.null_count > 0 and not may_be_null(array.type)
            self.columns[node.column.path] = _scalars(node.column, array)
        elif isinstance(node, StructLayout):
            self.nulls |= array.null_count > 0
            for name, child in node.fields.items():
                inside = array.field(name)
                self.nulls |= bounds is None and inside.null_count > 0
                self.add(child, inside, bounds)
        else:
            self.add_list(node, array, bounds)

    def add_list(self, node: ListLayout, array: pa.Array, bounds: NDArray[np.int64] | None) -> None:
        starts = _widened(array.offsets) if len(array) else read_only(np.zeros(1, dtype=np.int64))
        self.columns[node.starts.path] = starts
        if bounds is None:
            inner = starts
        else:
            self.nulls |= array.null_count > 0
            self.columns[node.offsets.path] = _from_own_start(starts, bounds)
            inner = starts[bounds]
        self.add(node.child, array.values, inner)


def _from_own_start(starts: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make offsets relative to the start of each outermost value, so that encoders only see their own context.

    The offsets of outermost value r, one more than it has lists, start at bounds[r] + r.
    """
    value = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds) + 1)
    first = int(bounds[0])
    own = np.empty(first + len(value), dtype=np.int64)
    own[:first] = 0
    position = np.arange(first, first + len(value)) - value
    own[first:] = starts[position] - starts[bounds[value]]
    return read_only(own)


def _scalars(column: Column, array: pa.Array) -> NDArray[Any]:
    if column.dtype in (TEXT, OBJECT) and is_text(array.type):
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if column.dtype == OBJECT:
            return read_only(array.to_numpy(zero_copy_only=False))
        return read_only(text_codes(array))
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if column.dtype == BOOLEAN:
        return read_only(pc.fill_null(array, False).to_numpy(zero_copy_only=False))
    if column.dtype == FLOAT:
        if array.null_count:
            array = pc.fill_null(array, float("nan"))
        return read_only(array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False))
    return _widened(array)


def _widened(array: pa.Array) -> NDArray[Any]:
    """View integers, dates and times as int64; values below nulls are arbitrary."""
    if pa.types.is_timestamp(array.type) and array.type.unit != "us":
        array = _cast(array, TIME)
    elif pa.types.is_uint64(array.type):
        array = _cast(array, pa.int64())
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        return read_only(np.empty(0, dtype=np.int64))
    width = array.type.bit_width // 8
    stored = np.dtype(f"{'u' if pa.types.is_unsigned_integer(array.type) else 'i'}{width}")
    plain = np.frombuffer(data, dtype=stored, count=len(array), offset=array.offset * width)
    return read_only(plain.astype(np.int64, copy=False))


def _cast(array: pa.Array, type: pa.DataType) -> pa.Array:  # noqa: A002  # the field's own name
    try:
        return array.cast(type)
    except pa.ArrowInvalid as error:
        raise DataKeyError.because(f"a value of type {array.type} does not fit {type}: {error}") from error
