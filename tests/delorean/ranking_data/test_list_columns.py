"""Columns of lists where a model expects numbers or vectors of a width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from delorean.ranking_data.list_columns import ChosenRows, FeatureColumn
from schemas.errors import TrainingError

FACTORS = FeatureColumn.of("f", {"f": 2})


def rows_of(values: Any, type_: pa.DataType) -> ChosenRows:
    batch = pa.record_batch({"f": pa.array(values, pa.list_(type_))})
    return ChosenRows(batch, np.arange(len(values)), np.array([len(each) for each in values]))


@pytest.mark.parametrize("type_", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_of_the_expected_width_are_read_and_null_ones_are_missing(type_: pa.DataType) -> None:
    matrix = rows_of([[[1, 2], None], [], [[3, 4]]], type_).matrix(FACTORS)
    np.testing.assert_array_equal(matrix, np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32))
    assert FACTORS.names == ("f[0]", "f[1]")


@pytest.mark.parametrize(
    ("column", "values", "type_", "message"),
    [
        (FACTORS, [[1.0, 2.0]], pa.float32(), "'f' is list<.*float>, expected vectors of 2 values"),
        (FACTORS, [[[1.0, 2.0, 3.0]]], pa.list_(pa.float32()), "'f' has vectors of 2 and of 3 values"),
        (FACTORS, [[["a", "b"]]], pa.list_(pa.string()), "'f' is list<.*string>>, expected list<float>"),
        (FeatureColumn.of("f", {}), [[[1.0]]], pa.list_(pa.float32()), "expected list<float>"),
    ],
)
def test_another_shape_is_an_error_that_names_the_column(
    column: FeatureColumn, values: Any, type_: pa.DataType, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        rows_of(values, type_).matrix(column)
