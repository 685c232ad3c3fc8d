"""Columns of a feature set that hold a list for each context, with one value for each of its items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.context_sample import Batches, list_lengths
from encoders.vector import columns_of
from schemas.errors import TrainingError


@dataclass(frozen=True)
class FeatureColumn:
    """A feature's column, and its columns in the matrix.

    width: number of values of each item: 1, or more where the feature is a vector
    vector: whether each item's value is a list

    >>> FeatureColumn("taste", 3, True).names
    ('taste[0]', 'taste[1]', 'taste[2]')
    """

    name: str
    width: int = 1
    vector: bool = False

    @classmethod
    def of(cls, feature: str, vectors: Mapping[str, int]) -> Self:
        """Return the column of a feature of encoders. vectors: the widths of their features that are vectors."""
        return cls(feature, vectors.get(feature, 1), feature in vectors)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns in the matrix."""
        return columns_of([self.name], {self.name: self.width} if self.vector else {})


@dataclass(frozen=True)
class ChosenRows:
    """A batch of contexts: their row numbers in the feature set, for errors, and their numbers of items."""

    batch: pa.RecordBatch
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def flat(self, column: str) -> pa.Array:
        """Return a column's values, item by item. Raises TrainingError unless there is one for each label."""
        own = list_lengths(self.batch, column)
        if (own != self.lengths).any():
            at = int(np.argmax(own != self.lengths))
            raise TrainingError.because(
                f"column '{column}' has {own[at]} values in row {self.rows[at]}, expected {self.lengths[at]}: "
                "one per label"
            )
        return self.batch.column(column).flatten()

    def floats(self, column: str) -> NDArray[np.float32]:
        """Return a column's numbers, item by item, NaN where null. Raises TrainingError where float32 loses any."""
        return _floats(self.flat(column), column, self.batch.column(column).type)

    def matrix(self, column: FeatureColumn) -> NDArray[np.float32]:
        """Return a feature's values (items, width). A vector that is null is NaN throughout."""
        values = self.flat(column.name)
        if not column.vector:
            return _floats(values, column.name, self.batch.column(column.name).type).reshape(-1, 1)
        if not _is_list(values.type):
            kind = self.batch.column(column.name).type
            raise TrainingError.because(
                f"column '{column.name}' is {kind}, expected vectors of {column.width} values for each item"
            )
        lengths = pc.list_value_length(values).fill_null(column.width).to_numpy(zero_copy_only=False)
        if (lengths != column.width).any():
            wrong = int(lengths[lengths != column.width][0])
            raise TrainingError.because(
                f"column '{column.name}' has vectors of {column.width} and of {wrong} values",
                "give all vectors the same length",
            )
        matrix = np.full((len(values), column.width), np.nan, dtype=np.float32)
        present = values.is_valid().to_numpy(zero_copy_only=False)
        inner = _floats(values.drop_null().flatten(), column.name, self.batch.column(column.name).type)
        matrix[present] = inner.reshape(-1, column.width)
        return matrix


def feature_columns(batches: Batches, schema: pa.Schema, names: tuple[str, ...]) -> tuple[FeatureColumn, ...]:
    """Return the columns of features. A vector's length is that of its type, or of its first value."""
    columns = []
    for name in names:
        inner = getattr(schema.field(name).type, "value_type", None)
        if inner is None or not _is_list(inner):
            columns.append(FeatureColumn(name))
        elif pa.types.is_fixed_size_list(inner):
            columns.append(FeatureColumn(name, inner.list_size, True))
        else:
            columns.append(FeatureColumn(name, _first_length(batches, name), True))
    return tuple(columns)


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _first_length(batches: Batches, name: str) -> int:
    def lengths() -> Iterator[int]:
        for batch in batches([name]):
            yield from pc.list_value_length(batch.column(0).flatten().drop_null())[:1].to_pylist()

    length = next(lengths(), 0)
    if not length:
        raise TrainingError.because(f"column '{name}' has no vector with values", "leave the feature out")
    return length


def _floats(values: pa.Array, column: str, type_: pa.DataType) -> NDArray[np.float32]:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise TrainingError.because(
            f"column '{column}' is {type_}, expected list<float>",
            "texts become categories by an encoder that numbers them: see [model] categorical",
        )
    single = values.cast(pa.float32(), safe=False)
    if single.type != values.type:
        _require_exact(values, single, column, type_)
    floats: NDArray[np.float32] = single.to_numpy(zero_copy_only=False)
    return floats


def _require_exact(values: pa.Array, single: pa.Array, column: str, type_: pa.DataType) -> None:
    """Raise TrainingError where float32 does not hold a number exactly."""
    changed = pc.fill_null(pc.not_equal(single.cast(values.type, safe=False), values), False)
    if pa.types.is_floating(values.type):
        changed = pc.and_not(changed, pc.fill_null(pc.is_nan(values), False))
    if (count := changed.true_count) > 0:
        raise TrainingError.because(
            f"column '{column}' is {type_}, expected list<float>: float32 cannot hold {count} of its values, such as "
            f"{values.filter(changed)[0].as_py()}",
            "round them where they are written",
        )
