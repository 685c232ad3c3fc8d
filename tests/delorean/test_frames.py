"""Results are read into Spark whatever Arrow types they have."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from delorean.frames import Readable

VALUES = [
    (pa.uint8(), 255, 255),
    (pa.uint16(), 2**16 - 1, 2**16 - 1),
    (pa.uint32(), 2**32 - 1, 2**32 - 1),
    (pa.uint64(), 2**64 - 1, Decimal(2**64 - 1)),
    (pa.list_(pa.uint32()), [2**32 - 1], [2**32 - 1]),
    (pa.large_list(pa.uint8()), [255], [255]),
    (pa.struct([("a", pa.uint64())]), {"a": 1}, {"a": Decimal(1)}),
    (pa.string_view(), "x", "x"),
    (pa.float16(), 1.5, 1.5),
]


class Rows(Readable):
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def to_arrow(self) -> pa.Table:
        return self.table


@pytest.mark.parametrize(("kind", "value", "expected"), VALUES, ids=lambda value: str(value))
def test_spark_reads_what_it_has_no_type_for(spark: SparkSession, kind: pa.DataType, value: Any, expected: Any) -> None:
    rows = Rows(pa.table({"a": pa.array([value, None], kind)}))
    assert rows.to_spark(spark).toArrow().to_pylist() == [{"a": expected}, {"a": None}]
