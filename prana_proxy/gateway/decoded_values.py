"""Decoded values: what each protocol decodes an answer into, and how it becomes Arrow of its data key's type.

The rule for nulls is that of `schemas.nulls`: inside a value, floats and strings may be null and nothing else may. A
field may be missing only if the service's declaration names a default for it, see `AnswerType`. A value that is null as
a whole is not an answer, hence invalid: a service without data for a context answers with an empty list, or with an
error.

Integers must be written as integers and fit the type's width; those of uint64 must fit int64 too, which encoders have.
Floats must fit the type's range when they are rounded to it, and be numbers: neither NaN nor infinite. Times are RFC
3339 texts with a zone, without leap seconds, rounded to microseconds, or integer microseconds since the epoch; either
within the years 1 to 9999 in UTC. Dates are `2026-01-31`, binary is base64. Fields that the type does not name are
ignored. All this holds for every protocol: each decodes into what `python_type` describes.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import accumulate, chain
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.evolution import default_of
from schemas.nulls import may_be_null
from schemas.times import EPOCH, FIRST_MICROS, LAST_MICROS

_class_of = builtins.type
_FLOAT32_MAX = 3.4028235677973362e38  # the greatest double that is rounded to a float32 and not to infinity
_FLOAT64_MAX = sys.float_info.max
OUTSIDE = "a time is outside the years 1 to 9999 in UTC"


@dataclass(frozen=True)
class AnswerType:
    """How answers are decoded, and turned into Arrow.

    type: of the element
    optional: paths of fields that an answer may lack, because its instance is older than them. They have their defaults
    defaults: of the element
    """

    type: pa.DataType
    optional: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, element: DataKey, declared: Sequence[str] | None = None) -> AnswerType:
        """Return the type of answers of which fields have declared defaults, and structs of such fields.

        declared: their paths; None: those that the element has
        """
        optional = set(element.defaults if declared is None else declared)
        _add_structs(element.type, "", optional)
        return cls(element.type, frozenset(optional), element.defaults)

    def python(self, beside: Mapping[str, str] = {}) -> Any:  # never changed
        """Return the type that values are decoded as. beside: as `python_type` takes it."""
        return python_type(self.type, beside, self.optional)

    def to_arrow(self, values: Sequence[Any]) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]]:
        """Turn decoded values into Arrow. Returns also, for each path that values lack, which of them do."""
        if not self.optional:
            return to_arrow(values, self.type), {}
        return self._filled(values, self.type, "")

    def _filled(
        self,
        values: Sequence[Any],
        type: pa.DataType,  # noqa: A002  # the field's own name
        path: str,
    ) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]]:
        if pa.types.is_list(type):
            offsets = np.array([0, *accumulate(map(len, values))], np.int32)
            flat, lacking = self._filled(list(chain.from_iterable(values)), type.value_type, path)
            before = {name: np.concatenate([[0], np.cumsum(mask)])[offsets] for name, mask in lacking.items()}
            array = pa.ListArray.from_arrays(pa.array(offsets), flat, type=type)
            return array, {name: counts[1:] > counts[:-1] for name, counts in before.items()}
        if not pa.types.is_struct(type) or not type.num_fields:
            return to_arrow(values, type), {}
        columns, lacking = [], {}
        for i, inner in enumerate(type):
            column, of_field = self._column(list(map(attrgetter(f"f{i}"), values)), inner, f"{path}{inner.name}")
            columns.append(column)
            lacking |= of_field
        return pa.StructArray.from_arrays(columns, fields=list(type)), lacking

    def _column(
        self, values: Sequence[Any], inner: pa.Field, path: str
    ) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]]:
        present = np.array([value is not UNSET for value in values], bool) if path in self.optional else None
        if present is None or present.all():
            return self._filled(values, inner.type, f"{path}.")
        array, lacking = self._filled([value for value in values if value is not UNSET], inner.type, f"{path}.")
        places = np.where(present, np.cumsum(present) - 1, len(array))
        filled = pa.concat_arrays([array, default_of(inner, path, self.defaults)]).take(pa.array(places))
        spread = {name: np.append(mask, False)[places] for name, mask in lacking.items()}
        return filled, {**spread, path: ~present}


def _add_structs(type: pa.DataType, path: str, optional: set[str]) -> bool:  # noqa: A002
    """Add the paths of structs all of whose fields may be missing, and return whether all fields of this type may."""
    if pa.types.is_list(type):
        _add_structs(type.value_type, path, optional)
        return False
    if not pa.types.is_struct(type) or not type.num_fields:
        return False
    for inner in type:
        if _add_structs(inner.type, f"{path}{inner.name}.", optional):
            optional.add(f"{path}{inner.name}")
    return all(f"{path}{inner.name}" in optional for inner in type)


def fields_in_order(type: pa.DataType, optional: frozenset[str], path: str = "") -> list[int]:  # noqa: A002
    """Return the positions of a struct's fields in the order that its Python class takes them: optional ones last."""
    return sorted(range(type.num_fields), key=lambda i: f"{path}{type.field(i).name}" in optional)


def python_type(
    type: pa.DataType,  # noqa: A002  # the field's own name
    beside: Mapping[str, str] = {},  # never changed
    optional: frozenset[str] = frozenset(),
    path: str = "",
) -> Any:
    """Build the type that msgspec decodes strictly, into values that `to_arrow` turns into Arrow.

    beside: of a struct, further attributes of any type, each with its name in the answer
    optional: paths of the fields that may be missing, which are UNSET then; path: of this type, followed by a dot

    Raises DataKeyError for an Arrow type that JSON cannot carry.
    """
    if pa.types.is_list(type):
        return list[_element_type(type.value_type, optional, path)]  # type: ignore[misc]  # a type built at run time
    if pa.types.is_struct(type):
        _refuse_names_that_json_escapes(type)
        fields: list[Any] = []
        for i in fields_in_order(type, optional, path):
            own = f"{path}{type.field(i).name}"
            inner = _element_type(type.field(i).type, optional, f"{own}.")
            fields.append((f"f{i}", inner | UnsetType, UNSET) if own in optional else (f"f{i}", inner))
        names = {f"f{i}": type.field(i).name for i in range(type.num_fields)}
        others: list[Any] = [(attribute, Any, None) for attribute in beside]
        return msgspec.defstruct("Row", [*fields, *others], rename={**names, **beside}, gc=False)
    if pa.types.is_integer(type):
        return _integer_type(type)
    if pa.types.is_timestamp(type):
        micros = msgspec.Meta(ge=FIRST_MICROS, le=LAST_MICROS)
        return Annotated[int, micros] | Annotated[datetime, msgspec.Meta(tz=True)]
    if pa.types.is_float32(type) or pa.types.is_float64(type):
        most = float_max(type)
        return Annotated[float, msgspec.Meta(ge=-most, le=most)]  # which NaN is not either
    plain = {"bool": bool, "string": str, "large_string": str, "binary": bytes, "date32[day]": date}
    if str(type) not in plain:
        raise DataKeyError.because(f"no service can answer with {type}", "use a type that schemas/arrow_types.py reads")
    return plain[str(type)]


def _element_type(type: pa.DataType, optional: frozenset[str], path: str) -> Any:  # noqa: A002
    inner = python_type(type, {}, optional, path)
    return inner | None if may_be_null(type) else inner


def _refuse_names_that_json_escapes(type: pa.DataType) -> None:  # noqa: A002
    for inner in type:
        if any(letter in '"\\' or letter < " " for letter in inner.name):  # msgspec compares names as they are escaped
            raise DataKeyError.because(f"no service can answer with a field named {inner.name!r}", "rename it")


def _integer_type(type: pa.DataType) -> Any:  # noqa: A002
    bits = type.bit_width
    if pa.types.is_signed_integer(type):
        return Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
    return Annotated[int, msgspec.Meta(ge=0, le=2 ** min(bits, 63) - 1)]  # encoders have 63 bits of a uint64


def float_max(type: pa.DataType) -> float:  # noqa: A002
    """Return the largest double that is rounded to a finite value of a float type."""
    return _FLOAT32_MAX if pa.types.is_float32(type) else _FLOAT64_MAX


def has_times(type: pa.DataType) -> bool:  # noqa: A002
    """Whether a type contains times, which `python_type` cannot bound."""
    if pa.types.is_list(type):
        return has_times(type.value_type)
    if pa.types.is_struct(type):
        return any(has_times(type.field(i).type) for i in range(type.num_fields))
    return bool(pa.types.is_timestamp(type))


def to_arrow(values: Sequence[Any], type: pa.DataType) -> pa.Array:  # noqa: A002
    """Turn decoded values into Arrow, column by column, without a Python object per field.

    >>> import msgspec
    >>> rows = msgspec.json.decode('[[1, 2], []]', type=list[python_type(pa.list_(pa.int8()))])
    >>> to_arrow(rows, pa.list_(pa.int8())).to_pylist()
    [[1, 2], []]
    """
    if pa.types.is_list(type):
        offsets = pa.array([0, *accumulate(map(len, values))], pa.int32())
        flat = to_arrow(list(chain.from_iterable(values)), type.value_type)
        return pa.ListArray.from_arrays(offsets, flat, type=type)
    if pa.types.is_struct(type) and type.num_fields:
        columns = [to_arrow(list(map(attrgetter(f"f{i}"), values)), type.field(i).type) for i in range(type.num_fields)]
        return pa.StructArray.from_arrays(columns, fields=list(type))
    if pa.types.is_struct(type):
        return pa.array([{}] * len(values), type)
    return _times(values, type) if pa.types.is_timestamp(type) else pa.array(values, type)


def _times(values: Sequence[Any], type: pa.DataType) -> pa.Array:  # noqa: A002
    if int in set(map(_class_of, values)):
        times = pa.array(values, type)
    else:  # seven times as fast as Arrow's own reading of times with a zone, and times are most of a history's cost
        times = pa.array([value - EPOCH for value in values], pa.duration("us")).view(type)
    microseconds = times.view(pa.int64()).to_numpy()
    if len(times) and not FIRST_MICROS <= microseconds.min() <= microseconds.max() <= LAST_MICROS:
        raise OverflowError(OUTSIDE)
    return times
