"""Casts the columns of label rows to their types at rest; errors name the column and a row whose value does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.as_of.columns import PER_SECOND, plain
from delorean.labels.column_types import TimeUnit
from schemas.errors import LabelError
from schemas.nested_types import is_list
from schemas.tables import TIME

_FIRST, _END = -62_135_596_800, 253_402_300_800  # seconds of the years 1 to 9999, the range of Python's dates
_DAY_SECONDS = 86_400
_SHOWN = 4  # other columns that an error shows to identify the row


@dataclass(frozen=True)
class Caster:
    """Casts columns of label rows.

    rows: of the source; list columns hold a row's items
    names: of the columns in the source, where they differ
    time_unit: the meaning of integers and dates in columns of times
    """

    rows: pa.Table
    names: Mapping[str, str] = field(default_factory=dict)
    time_unit: TimeUnit | None = None

    def value(self, name: str, type: pa.DataType) -> pa.ChunkedArray:  # noqa: A002  # the field's own name
        """Cast a column of variables or labels. Raises LabelError."""
        column = self.rows[name]
        if not is_list(column.type):
            return self._cast(name, column, type, None)
        lists = self._plain_lists(name)
        values = self._cast(name, pa.chunked_array([lists.flatten()]), type.value_type, lists)
        offsets = pc.subtract(lists.offsets, lists.offsets[0]) if len(lists) else lists.offsets
        cast = pa.ListArray.from_arrays(offsets, values.combine_chunks(), mask=lists.is_null())
        return pa.chunked_array([cast])

    def time(self, name: str) -> pa.ChunkedArray:
        """Cast a column of times to UTC microseconds. Raises LabelError."""
        return self._instants(name, plain(self.rows[name]), None)

    def _plain_lists(self, name: str) -> pa.ListArray:
        """Return a column of any list type as one array of plain lists."""
        column = self.rows[name]
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            column = column.cast(pa.large_list(column.type.value_type))
        array = column.combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        return array.cast(pa.list_(array.type.value_type))

    def _cast(
        self,
        name: str,
        values: pa.ChunkedArray,
        type: pa.DataType,  # noqa: A002
        lists: pa.ListArray | None,
    ) -> pa.ChunkedArray:
        values = plain(values)
        if type == TIME:
            return self._instants(name, values, lists)
        if pa.types.is_floating(type) and pa.types.is_floating(values.type):
            return values.cast(type, safe=False)  # labels may be doubles, which only lose rounding
        try:
            return values.cast(type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise self._misfit(name, self._first_misfit(values, type), lists, f"does not fit {type}") from error

    def _first_misfit(self, values: pa.ChunkedArray, type: pa.DataType) -> int:  # noqa: A002
        """Find the first value that cannot be cast, by bisection."""
        start, end = 0, len(values)
        while end - start > 1:
            middle = (start + end) // 2
            try:
                values.slice(start, middle - start).cast(type)
                start = middle
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
                end = middle
        return start

    def _instants(self, name: str, values: pa.ChunkedArray, lists: pa.ListArray | None) -> pa.ChunkedArray:
        """Cast times of any unit to UTC microseconds. Raises LabelError for times that this would change."""
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            return self._parsed(name, values, lists)
        per_second = self._per_second(values.type)
        if pa.types.is_date(values.type):
            values = values.cast(pa.date32()).cast(pa.int32())
        counts, beyond = self._calendar_check(values, per_second)
        if beyond.any():
            raise self._misfits(
                name,
                beyond,
                lists,
                "is outside the years 1 to 9999",
                "were milliseconds read as seconds? divide them, or use TIMESTAMP_MILLIS(…)",
            )
        if per_second <= 10**6:
            return pc.multiply(counts, round(10**6 / per_second)).cast(TIME)
        whole = pc.divide(counts, 1000)
        finer = self._where(pc.not_equal(pc.multiply(whole, 1000), counts))
        if finer.any():
            raise self._misfits(
                name,
                finer,
                lists,
                "is finer than a microsecond, the unit of all times",
                'round it, down for `time`: df["time"].dt.floor("us")',
            )
        return whole.cast(TIME)

    def _calendar_check(self, values: pa.ChunkedArray, per_second: float) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
        """Return times as signed integers, and a mask of those outside the years that Python has."""
        above = (
            self._where(pc.greater(values, pa.scalar(2**63 - 1, pa.uint64()))) if values.type == pa.uint64() else False
        )
        counts = values.cast(pa.int64(), safe=False)
        first, end = (max(-(2**63), min(2**63, round(at * per_second))) for at in (_FIRST, _END))
        return counts, above | self._where(pc.or_(pc.less(counts, first), pc.greater(counts, end - 1)))

    def _per_second(self, type: pa.DataType) -> float:  # noqa: A002
        if pa.types.is_timestamp(type):
            return PER_SECOND[type.unit]
        unit = "day" if pa.types.is_date(type) else self.time_unit
        return 1 / _DAY_SECONDS if unit == "day" else PER_SECOND[unit or "us"]

    def _parsed(self, name: str, values: pa.ChunkedArray, lists: pa.ListArray | None) -> pa.ChunkedArray:
        try:
            return values.cast(TIME)
        except pa.ArrowInvalid as error:
            raise self._misfit(
                name,
                self._first_misfit(values, TIME),
                lists,
                "is not a time with a zone",
                "write times such as 2026-01-31T12:00:00Z, or cast them in the query",
            ) from error

    def _misfits(
        self, name: str, mask: NDArray[np.bool_], lists: pa.ListArray | None, why: str, hint: str
    ) -> LabelError:
        """Build the error for the masked values of a column, or of its lists' items; it shows the first."""
        return self._misfit(name, int(np.flatnonzero(mask)[0]), lists, why, hint, int(mask.sum()))

    def _misfit(
        self, name: str, position: int, lists: pa.ListArray | None, why: str, hint: str | None = None, count: int = 1
    ) -> LabelError:
        """Build the error for a value at a position of a column, or of its lists' items."""
        row, values = position, self.rows[name]
        if lists is not None:
            row = int(pc.list_parent_indices(lists)[position].as_py())
        value = _text(values.slice(row, 1))
        others = [other for other in self.rows.column_names if other != name and not is_list(self.rows[other].type)]
        where = ", ".join(f"{self.names.get(o, o)}={_text(self.rows[o].slice(row, 1))}" for o in others[:_SHOWN])
        more = f", and {count - 1} more" if count > 1 else ""
        return LabelError.because(
            f"column '{self.names.get(name, name)}' of the label data: {value} {why}{more}"
            + (f"; in the row with {where}" if where else ""),
            hint or "leave the row out, or cast the column in the query",
        )

    @staticmethod
    def _where(mask: pa.ChunkedArray) -> NDArray[np.bool_]:
        filled: NDArray[np.bool_] = pc.fill_null(mask, False).to_numpy()
        return filled


def _text(one: pa.ChunkedArray) -> str:
    """Format one value of any type briefly, even one that Python cannot represent."""
    try:
        text = str(one[0].as_py())
    except (OverflowError, ValueError):  # a time outside Python's range
        text = f"{one.cast(pa.int64())[0].as_py()} {getattr(one.type, 'unit', '')}".rstrip()
    return text if len(text) <= 60 else f"{text[:57]}…"
