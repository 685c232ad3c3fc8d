"""The captured values of rows, by their places in files: a column that no query reads unless it names it.

Spark leaves a column that is not used out of its plan, and this one is a function of a row's place. So the key and the
time of every capture are read first, and values only for the rows that a query's conditions on these leave.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.closeable import Closeable
from schemas.data_keys import DataKey
from snapshotter.records import DataFile
from snapshotter.spark.arrow_types import type_in_spark
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import ParquetReader

if TYPE_CHECKING:
    from pyspark.sql import Column

VALUE_COLUMN = "value"
FILE_NUMBER, ROW_NUMBER = "__file", "__row"  # the place of a row, which queries do not see
PLACE = pa.schema([(FILE_NUMBER, pa.int32()), (ROW_NUMBER, pa.int64())])
_ROWS_AT_ONCE = 1024  # a row group has at least as many, so this is about as large in memory


@dataclass(frozen=True)
class CapturedValues:
    """The values of an element in files.

    element: whose type the values are read as, by the rules of `schemas.evolution`
    files: the JSON of the files' records, in the order of their numbers
    """

    element: DataKey
    files: tuple[str, ...]

    def column(self, storage_uri: str) -> Column:
        """Return the column of a frame that has the columns of `PLACE`. Its tasks hold one row group at a time."""
        from pyspark.sql.functions import col
        from pyspark.sql.pandas.functions import arrow_udf
        from pyspark.sql.pandas.types import from_arrow_type

        element, files = self.element, self.files
        in_spark = type_in_spark(element.type)

        def read_task(places: Iterator[tuple[pa.Array, pa.Array]]) -> Iterator[pa.Array]:
            with ValueReader(open_storage(storage_uri), element, files) as reader:
                for numbers, rows in places:
                    for start in range(0, len(rows), _ROWS_AT_ONCE):
                        part = slice(start, start + _ROWS_AT_ONCE)
                        yield reader.read(numbers.to_numpy()[part], rows.to_numpy()[part]).cast(in_spark)

        declare: Any = arrow_udf  # pyspark's annotations lack structs, and the kind follows from those of the function
        read = declare(returnType=from_arrow_type(in_spark))(read_task)
        values: Column = read(col(FILE_NUMBER), col(ROW_NUMBER))
        return values.alias(VALUE_COLUMN)


class ValueReader(Closeable):
    """Reads values at places, keeping the last file open and its last row group in memory.

    Raises DataKeyError for values that cannot be read as the element's type.
    """

    def __init__(self, storage: Storage, element: DataKey, files: tuple[str, ...]) -> None:
        self._storage, self._element, self._files = storage, element, files
        self._opened = ExitStack()
        self._file = self._group = -1
        self._values = pa.array([], element.type)

    def close(self) -> None:
        """Close the file that is open."""
        self._opened.close()

    def read(self, numbers: NDArray[np.int32], rows: NDArray[np.int64]) -> pa.Array:
        """Return the value of each place, in the order of the places. Each row group is read once."""
        values, positions = [self._values.slice(0, 0)], []
        for number in np.unique(numbers):
            of_file = np.flatnonzero(numbers == number)
            self._open(int(number))
            groups = np.searchsorted(self._starts, rows[of_file], side="right") - 1
            for group in np.unique(groups):
                positions.append(of_file[groups == group])
                self._load(int(group))
                values.append(self._values.take(pa.array(rows[positions[-1]] - self._starts[group])))
        order = np.argsort(np.concatenate(positions), kind="stable")
        return pa.concat_arrays(values).take(pa.array(order))

    def _open(self, number: int) -> None:
        if number == self._file:
            return
        self._opened.close()
        self._reader = self._opened.enter_context(
            ParquetReader(self._storage, DataFile.from_json(json.loads(self._files[number])))
        )
        metadata = self._reader.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._file, self._group = number, -1

    def _load(self, group: int) -> None:
        if group == self._group:
            return
        stored = self._reader.read([VALUE_COLUMN], [group])[VALUE_COLUMN].combine_chunks()
        self._values = self._element.adapter(stored.type)(stored)
        self._group = group
