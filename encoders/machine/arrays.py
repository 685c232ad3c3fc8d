"""NumPy's functions that give the same bits in machine code, elementwise or over an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from encoders.machine.functions import stub
from encoders.machine.kinds import (
    GAVE_UP,
    as_float,
    delegate,
    implements,
    intrinsic,
    is_array,
    is_float,
    refused,
    shown,
)

_ELEMENTWISE = "sqrt floor ceil fabs abs absolute isnan isinf isfinite minimum maximum"


def _elementwise(name: str) -> Any:
    function = getattr(np, name)

    def apply(typing: Any, *kinds: Any) -> Any:
        if not all(is_float(kind) or (is_array(kind) and kind.dtype == types.float64) for kind in kinds):
            raise refused(f"numpy.{name}() of {' and '.join(shown(kind) for kind in kinds)}")
        return delegate(typing, function, tuple(types.float64 if is_float(kind) else kind for kind in kinds))

    def one(typing: Any, a: Any) -> Any:
        return apply(typing, a)

    def two(typing: Any, a: Any, b: Any) -> Any:
        return apply(typing, a, b)

    chosen = two if name in ("minimum", "maximum") else one
    chosen.__name__ = name
    return intrinsic(chosen)


OF_NUMPY = {name: _elementwise(name) for name in _ELEMENTWISE.split()}
array_least, array_greatest = stub("array.min"), stub("array.max")


@intrinsic
def _bits(_typing: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = as_float(context, builder, signature.args[0], arguments[0])
        return builder.bitcast(number, ir.IntType(64))

    return types.int64(value), code


@implements(array_least)
def _least(array: Any) -> Any:
    return _extreme("min", array, 1)


@implements(array_greatest)
def _greatest(array: Any) -> Any:
    return _extreme("max", array, -1)


def _extreme(name: str, array: Any, sign: int) -> Any:
    if not (is_array(array) and array.ndim == 1 and array.dtype in (types.int64, types.float64)):
        raise refused(f"{name}() of {shown(array)}")

    def of_array(array: Any) -> Any:
        if len(array) == 0:
            raise ValueError(GAVE_UP)
        found = array[0]
        for i in range(len(array)):
            each = array[i]
            if each != each:
                return each  # NaN in NumPy, whatever else is there
            if (each < found) if sign > 0 else (each > found):
                found = each
            elif each == found and _bits(each) != _bits(found):
                raise ValueError(GAVE_UP)  # of 0.0 and -0.0 NumPy takes either
        return found

    return of_array
