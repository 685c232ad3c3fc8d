"""Compares features part by part: each part holds all rows of its contexts from both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.audit.comparison.alignment import Alignment, align
from delorean.audit.comparison.result import FeatureComparison, by_feature
from delorean.audit.comparison.value_differences import ValueDifferences, bits_differ
from delorean.labels import LABEL_COLUMN, OUTCOME_COLUMN, TIME_COLUMN
from encoders.columns import one_array
from schemas.errors import ConfigError, DataKeyError
from schemas.vectors import is_vector, vector_matrix

_COUNTS = (
    "compared_rows",
    "compared_items",
    "rows_only_before",
    "rows_only_after",
    "items_only_before",
    "items_only_after",
    "reordered_rows",
    "changed_labels",
    "changed_outcomes",
)


class Comparer:
    """Compares two sets of feature rows, added part by part.

    context, items: the names of the variables that identify rows and items
    before, after: the features of each side
    labels: the labels' columns, which both sides have
    """

    def __init__(
        self,
        context: Sequence[str],
        items: Sequence[str],
        before: Sequence[str],
        after: Sequence[str],
        labels: Sequence[str] = (LABEL_COLUMN,),
    ) -> None:
        if not context or not items:
            raise ConfigError.because(
                "no context or item variables to compare by", 'name them: context=("profile_id",)'
            )
        self.context, self.items = list(context), list(items)
        self.before, self.after = tuple(before), tuple(after)
        self.labels = list(labels)
        self.differences = {name: ValueDifferences() for name in after if name in before}
        self.counts = dict.fromkeys(_COUNTS, 0)

    @property
    def columns(self) -> list[str]:
        """The columns that a part must have on both sides."""
        outcome = [OUTCOME_COLUMN] if self.labels else []
        return [*self.context, TIME_COLUMN, *outcome, *self.items, *self.labels, *self.differences]

    def add(self, before: pa.Table, after: pa.Table) -> None:
        """Compare a part. Raises DataKeyError for columns that do not fit, LabelError for repeated rows."""
        for side, table in (("before", before), ("after", after)):
            self._check(side, table)
        aligned = align(before, after, self.context, self.items)
        self._count(aligned)
        if self.labels:
            sides = zip((before, after), aligned.rows, strict=True)
            outcomes = [table[OUTCOME_COLUMN].take(pa.array(rows)) for table, rows in sides]
            same = pc.fill_null(pc.equal(*outcomes), False)
            self.counts["changed_outcomes"] += len(same) - (pc.sum(same).as_py() or 0)
        for name in self.labels:
            self.counts["changed_labels"] += bits_differ(*_values(before, after, name, aligned.items))
        for name, differences in self.differences.items():
            values = _values(before, after, name, aligned.items)
            differences.add(*_components(name, *values, aligned.row_of))

    def result(self, before: str, after: str) -> FeatureComparison:
        """Return the comparison of all parts. before, after: names of the sides."""
        changes = {name: differences.change(name) for name, differences in self.differences.items()}
        return FeatureComparison(before, after, tuple(by_feature(changes, self.before, self.after)), **self.counts)

    def _count(self, aligned: Alignment) -> None:
        only = (*aligned.rows_only, *aligned.items_only)
        counts = (len(aligned.rows[0]), len(aligned.row_of), *only, aligned.reordered)
        for name, count in zip(_COUNTS, counts, strict=False):  # `add` counts labels and outcomes
            self.counts[name] += count

    def _check(self, side: str, table: pa.Table) -> None:
        """Raise DataKeyError unless each list has one value for every item, float32 where floats are compared."""
        for name in self.columns:
            if name not in table.column_names:
                raise DataKeyError.unknown(f"column of the features {side}", name, table.column_names)
        lengths: NDArray[np.int64] | None = None
        for name in [*self.labels, *self.items, *self.differences]:
            type = table.schema.field(name).type  # noqa: A001  # the field's own name
            if not (pa.types.is_list(type) or pa.types.is_large_list(type)) or table[name].null_count:
                raise DataKeyError.because(f"column '{name}' {side} is {type}, expected a list in every row")
            vector = name in self.differences and is_vector(type.value_type)
            if name not in self.items and type.value_type != pa.float32() and not vector:
                raise DataKeyError.because(f"column '{name}' {side} is {type}, expected list<float>")
            own_lengths = np.diff(one_array(table[name]).offsets.to_numpy())
            if lengths is not None and not np.array_equal(lengths, own_lengths):
                raise DataKeyError.because(f"column '{name}' {side} does not have one value for each label")
            lengths = own_lengths


def _components(
    name: str, old: pa.Array, new: pa.Array, row_of: NDArray[np.int64]
) -> tuple[pa.Array, pa.Array, NDArray[np.int64]]:
    """Return the components of vectors, null where the vector is, and the row of each; numbers as they are.

    Raises DataKeyError unless both sides have numbers, or vectors of one width.
    """
    if not is_vector(old.type) and not is_vector(new.type):
        return old, new, row_of
    if old.type != new.type:
        raise _other_widths(name, "a number", "a vector")
    matrices = [vector_matrix(name, each) for each in (old, new)]
    widths = sorted({each.shape[1] for each in matrices} - {0})
    if len(widths) > 1:
        raise _other_widths(name, *(f"{each.shape[1]} components" for each in matrices))
    width = widths[0] if widths else 1
    flat = [_flat(each, vectors, width) for each, vectors in zip(matrices, (old, new), strict=True)]
    return flat[0], flat[1], np.repeat(row_of, width)


def _other_widths(name: str, before: str, after: str) -> DataKeyError:
    return DataKeyError.because(
        f"feature '{name}' has {before} before and {after} after", "compare features of one width; rename one of them"
    )


def _flat(matrix: NDArray[np.float32], vectors: pa.Array, width: int) -> pa.Array:
    missing = np.repeat(vectors.is_null().to_numpy(zero_copy_only=False), width)
    values = matrix.reshape(-1) if matrix.shape[1] else np.zeros(len(missing), np.float32)
    return pa.array(values, from_pandas=False, mask=missing)


def _values(
    before: pa.Table, after: pa.Table, name: str, items: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[pa.Array, pa.Array]:
    """Return a column's values of the matched items on both sides."""
    sides = zip((before, after), items, strict=True)
    old, new = (one_array(table[name]).flatten().take(pa.array(at)) for table, at in sides)
    return old, new
