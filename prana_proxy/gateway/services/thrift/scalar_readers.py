"""Reads numbers and texts by their Arrow type, into what `python_type` describes."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from thriftpy2.thrift import TType

from prana_proxy.gateway.decoded_values import float_max, python_type, to_arrow
from prana_proxy.gateway.services.thrift.binary_protocol import (
    BOOL,
    BYTE,
    DOUBLE,
    ENDS_EARLY,
    I16,
    I32,
    I64,
    LENGTH,
    SIZES,
    STRING,
    UnfitError,
)

Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value: (data, start) → the value and where it ends. Raises UnfitError, or struct.error at the data's end."""

_INTEGERS = (BYTE, I16, I32, I64)
_FORMATS = {BOOL: "B", BYTE: "b", I16: ">h", I32: ">i", I64: ">q", DOUBLE: ">d"}
_DTYPES = {BOOL: "u1", BYTE: "i1", I16: ">i2", I32: ">i4", I64: ">i8", DOUBLE: ">f8"}


def scalar_reader(code: int, type: pa.DataType) -> Reader | None:  # noqa: A002  # the field's own name
    """Build the reader of a scalar of one of thriftpy2's types; None if that cannot be this Arrow type."""
    if (code == BOOL and pa.types.is_boolean(type)) or (code == DOUBLE and pa.types.is_floating(type)):
        return NumberReader(code, type)
    if code in _INTEGERS and (pa.types.is_integer(type) or (code == I64 and pa.types.is_timestamp(type))):
        return NumberReader(code, type)
    if pa.types.is_binary(type):
        return _text_reader(bytes) if code in (STRING, TType.BINARY) else None
    if code == STRING and (pa.types.is_string(type) or pa.types.is_large_string(type)):
        return _text_reader(_utf8)
    if code == STRING and (pa.types.is_timestamp(type) or pa.types.is_date32(type)):
        python, times = python_type(type), pa.types.is_timestamp(type)
        return _text_reader(lambda data: checked(_utf8(data), python, type if times else None))
    return None


def plain_reader(code: int) -> Reader:
    """Build the reader of a scalar of one of thriftpy2's types, without an Arrow type: a number or a text."""
    if code in (STRING, TType.BINARY):
        return _text_reader(lambda data: data.decode(errors="replace"))
    unpack, size = Struct(_FORMATS[code]).unpack_from, SIZES[code]
    if code == BOOL:
        return lambda data, at: (unpack(data, at)[0] != 0, at + size)
    return lambda data, at: (unpack(data, at)[0], at + size)


class NumberReader:
    """Reads numbers of one type, or bools: one by one, or many at a constant distance.

    code: of the type on the wire
    """

    def __init__(self, code: int, type: pa.DataType) -> None:  # noqa: A002
        self.code, self.size = code, SIZES[code]
        self._unpack, self._dtype = Struct(_FORMATS[code]).unpack_from, np.dtype(_DTYPES[code])
        self._is_bool = code == BOOL
        fits = pa.types.is_signed_integer(type) and type.bit_width >= 8 * self.size
        self._python: Any = None if fits or self._is_bool else python_type(type)
        self._most = float_max(type) if pa.types.is_floating(type) else None

    def __call__(self, data: bytes, at: int) -> tuple[Any, int]:
        """Read one."""
        value = self._unpack(data, at)[0]
        if self._is_bool:
            if value > 1:
                raise UnfitError(f"Expected `bool`, got {value}")
            value = value == 1
        elif self._python is not None and not self._is_within(value):
            value = checked(value, self._python)
        return value, at + self.size

    def _is_within(self, value: float) -> bool:
        """Whether a float is within its type's range; other types need `checked`."""
        return self._most is not None and -self._most <= value <= self._most

    def many(self, data: bytes, at: int, count: int, apart: int) -> list[Any] | None:
        """Read some, the first at `at`, each `apart` bytes after the previous; None if one of them does not fit."""
        values = np.ndarray(count, self._dtype, data, at, (apart,))
        if self._is_bool:
            return None if count and values.max() > 1 else (values == 1).tolist()
        listed: list[Any] = values.tolist()
        if self._most is not None and count and not (np.abs(values) <= self._most).all():
            return None
        if self._python is None or self._most is not None:
            return listed
        try:
            fitting: list[Any] = checked(listed, list[self._python])  # type: ignore[name-defined]  # built at run time
            return fitting
        except UnfitError:
            return None


def checked(value: Any, python: Any, time: pa.DataType | None = None) -> Any:
    """Convert a value to one of `python_type`'s. time: the Arrow type of a time. Raises UnfitError."""
    try:
        converted = msgspec.convert(value, python)
        if time is not None and converted.year in (1, 9999):  # where a time zone may lead out of these years
            to_arrow([converted], time)
        return converted
    except (msgspec.ValidationError, OverflowError) as error:
        raise UnfitError(str(error)) from error


def _text_reader(finish: Callable[[bytes], Any]) -> Reader:
    unpack = LENGTH.unpack_from

    def read(data: bytes, at: int) -> tuple[Any, int]:
        length = unpack(data, at)[0]
        start, end = at + 4, at + 4 + length
        if length < 0 or end > len(data):
            raise UnfitError(ENDS_EARLY)
        return finish(data[start:end]), end

    return read


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnfitError("Expected UTF-8") from error
