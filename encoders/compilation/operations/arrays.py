"""NumPy's functions that give the same bits in machine code, elementwise or over an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from encoders.compilation.operations.intrinsics import (
    delegate,
    implements,
    intrinsic,
    intrinsic_of,
    overload_target,
    refused,
    unary,
)
from encoders.compilation.operations.value_types import GAVE_UP, as_float, is_array, is_float, shown

_OF_ONE = ("sqrt", "floor", "ceil", "fabs", "abs", "absolute", "isnan", "isinf", "isfinite")
_OF_TWO = ("minimum", "maximum")


def _elementwise(name: str, arity: int) -> Any:
    function = getattr(np, name)

    def apply(typing: Any, *kinds: Any) -> Any:
        if not all(is_float(kind) or (is_array(kind) and kind.dtype == types.float64) for kind in kinds):
            raise refused(f"numpy.{name}() of {' and '.join(shown(kind) for kind in kinds)}")
        return delegate(typing, function, tuple(types.float64 if is_float(kind) else kind for kind in kinds))

    return intrinsic_of(name, arity, apply)


@intrinsic
def _bits(_typing: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        return builder.bitcast(as_float(context, builder, kind, value), ir.IntType(64))

    return unary(types.int64, value, emit)


_array_least, _array_greatest = overload_target("array.min"), overload_target("array.max")


@implements(_array_least)
def _least(array: Any) -> Any:
    return _extreme("min", array, 1)


@implements(_array_greatest)
def _greatest(array: Any) -> Any:
    return _extreme("max", array, -1)


def _extreme(name: str, array: Any, sign: int) -> Any:
    if not (is_array(array) and array.ndim == 1 and array.dtype in (types.int64, types.float64)):
        raise refused(f"{name}() of {shown(array)}")

    def of_array(array: Any) -> Any:
        if len(array) == 0:
            raise ValueError(GAVE_UP)
        extreme = array[0]
        for i in range(len(array)):
            each = array[i]
            if each != each:
                return each  # NumPy gives NaN if any element is NaN
            if (each < extreme) if sign > 0 else (each > extreme):
                extreme = each
            elif each == extreme and _bits(each) != _bits(extreme):
                raise ValueError(GAVE_UP)  # NumPy may give either of 0.0 and -0.0
        return extreme

    return of_array


OPERATIONS: dict[str, Any] = {
    **{f"numpy_{name}": _elementwise(name, 1) for name in _OF_ONE},
    **{f"numpy_{name}": _elementwise(name, 2) for name in _OF_TWO},
    "array_least": _array_least,
    "array_greatest": _array_greatest,
}
