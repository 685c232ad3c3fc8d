"""The functions of math: where they raise in Python, they give up; and sums as Python and NumPy round them."""

from __future__ import annotations

import math
import sys
from typing import Any

import numba
from llvmlite import ir
from numba import types

from encoders.machine.arithmetic import add, float_power, give_up_unless_usual
from encoders.machine.conversion import emit_truncated, item, to_float, to_int
from encoders.machine.functions import is_series, stub
from encoders.machine.kinds import (
    F64,
    GAVE_UP,
    as_float,
    as_int,
    implements,
    intrinsic,
    is_array,
    is_float,
    is_int,
    is_number,
    refused,
    register_jitable,
    shown,
)

COMPENSATED = sys.version_info >= (3, 12)  # from there on sum() of floats keeps what rounding loses
_BLOCK = 128  # numbers that NumPy adds in one go


def _fmod(context: Any, builder: Any, x: Any, y: Any) -> Any:
    found = builder.frem(x, y)
    give_up_unless_usual(context, builder, found, (x, y))
    return found


_OWN: dict[Any, Any] = {math.fmod: _fmod, math.pow: float_power}  # where Numba's is not C's


def _checked(function: Any, arity: int) -> Any:
    """Compile a function of math that raises wherever finite numbers give none."""

    def checked(typing: Any, *kinds: Any) -> Any:
        if not all(is_number(kind) for kind in kinds):
            raise refused(f"math.{function.__name__}() of {' and '.join(shown(kind) for kind in kinds)}")
        if function not in _OWN:
            function_type = typing.resolve_value_type(function)
            inner = function_type.get_call_type(typing, (types.float64,) * len(kinds), {})

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            floats = [as_float(context, builder, *each) for each in zip(signature.args, arguments, strict=True)]
            if function in _OWN:
                return _OWN[function](context, builder, *floats)
            found = context.get_function(function_type, inner)(builder, floats)
            give_up_unless_usual(context, builder, found, floats)
            return found

        return types.float64(*kinds), code

    def one(typing: Any, a: Any) -> Any:
        return checked(typing, a)

    def two(typing: Any, a: Any, b: Any) -> Any:
        return checked(typing, a, b)

    chosen = one if arity == 1 else two
    chosen.__name__ = function.__name__
    return intrinsic(chosen)


def _to_whole(name: str) -> Any:
    """math.floor and its like: an integer."""

    def whole(_typing: Any, a: Any) -> Any:
        if not is_number(a):
            raise refused(f"math.{name}() of {shown(a)}")

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if is_int(signature.args[0]):
                return as_int(context, builder, signature.args[0], arguments[0])
            rounding = builder.module.declare_intrinsic(f"llvm.{name}", [F64])
            found = builder.call(rounding, [as_float(context, builder, signature.args[0], arguments[0])])
            return emit_truncated(context, builder, found)

        return types.int64(a), code

    whole.__name__ = name
    return intrinsic(whole)


def _test(name: str) -> Any:
    """math.isnan and its like."""

    def test(_typing: Any, a: Any) -> Any:
        if not is_number(a):
            raise refused(f"math.{name}() of {shown(a)}")

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = as_float(context, builder, signature.args[0], arguments[0])
            difference = builder.fsub(value, value)
            nan = builder.fcmp_unordered("uno", value, value)
            finite = builder.fcmp_ordered("==", difference, ir.Constant(F64, 0.0))
            if name == "isinf":
                return builder.not_(builder.or_(nan, finite))
            return nan if name == "isnan" else finite

        return types.boolean(a), code

    test.__name__ = name
    return intrinsic(test)


_ONE = "sqrt exp expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh fabs"
OF_MATH: dict[str, Any] = {
    **{name: _checked(getattr(math, name), 1) for name in _ONE.split()},
    **{name: _checked(getattr(math, name), 2) for name in ("atan2", "copysign", "fmod", "pow")},
    **{name: _to_whole(name) for name in ("floor", "ceil", "trunc")},
    **{name: _test(name) for name in ("isnan", "isinf", "isfinite")},
}

total, array_total, array_mean = stub("sum"), stub("array.sum"), stub("array.mean")


@implements(total)
def _total(series: Any, start: Any) -> Any:
    if not is_series(series) or not is_number(start):
        raise refused(f"sum() of {shown(series)}")
    if is_int(series.dtype) or not is_float(series.dtype):

        def of_ints(series: Any, start: Any) -> Any:
            found = add(start, 0)
            for i in range(len(series)):
                found = add(found, item(series[i]))
            return found

        return of_ints
    if not COMPENSATED or (is_array(series) and series.mutable and series.dtype == types.float64):
        return lambda series, start: _one_by_one(series, to_float(start))  # NumPy's scalars are not compensated
    if is_array(series):
        return lambda series, start: _compensated(series, to_float(start))

    def of_either(series: Any, start: Any) -> Any:
        found = _compensated(series, to_float(start))
        other = _one_by_one(series, to_float(start))
        if found != other and (found == found or other == other):
            raise OverflowError(GAVE_UP)
        return found

    return of_either


@register_jitable
def _one_by_one(series: Any, start: float) -> float:
    found = start
    for i in range(len(series)):
        found += to_float(series[i])
    return found


@register_jitable
def _compensated(series: Any, start: float) -> float:
    if len(series) == 0:
        return start
    found = start + to_float(series[0])
    lost = 0.0
    for i in range(1, len(series)):
        each = to_float(series[i])
        longer = found + each
        lost += (found - longer) + each if math.fabs(found) >= math.fabs(each) else (each - longer) + found
        found = longer
    return found + lost if lost != 0.0 and math.isfinite(lost) else found


@implements(array_total)
def _array_total(array: Any) -> Any:
    if is_array(array) and array.ndim == 1 and array.dtype == types.float64:
        return lambda array: 0.0 + _pairwise(array, 0, len(array))
    if is_array(array) and array.ndim == 1 and array.dtype in (types.int64, types.boolean):

        def of_ints(array: Any) -> Any:
            found = 0
            for i in range(len(array)):
                found += to_int(array[i])  # NumPy's integers wrap around too
            return found

        return of_ints
    raise refused(f"sum() of {shown(array)}")


@implements(array_mean)
def _array_mean(array: Any) -> Any:
    if not (is_array(array) and array.ndim == 1 and array.dtype == types.float64):
        raise refused(f"mean() of {shown(array)}")

    def mean(array: Any) -> Any:
        if len(array) == 0:
            raise ValueError(GAVE_UP)
        return (0.0 + _pairwise(array, 0, len(array))) / len(array)

    return mean


@register_jitable
def _block(array: Any, first: int, count: int) -> float:
    found = -0.0
    if count < 8:
        for i in range(count):
            found += array[first + i]
        return found
    a, b, c, d = array[first], array[first + 1], array[first + 2], array[first + 3]
    e, f, g, h = array[first + 4], array[first + 5], array[first + 6], array[first + 7]
    at = 8
    while at < count - count % 8:
        a += array[first + at]
        b += array[first + at + 1]
        c += array[first + at + 2]
        d += array[first + at + 3]
        e += array[first + at + 4]
        f += array[first + at + 5]
        g += array[first + at + 6]
        h += array[first + at + 7]
        at += 8
    found = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(at, count):
        found += array[first + i]
    return found


@numba.njit(boundscheck=True, nogil=True, error_model="python")
def _pairwise(array: Any, first: int, count: int) -> float:
    """Add as NumPy does: halves on their own, which loses less than one after the other."""
    if count <= _BLOCK:
        return _block(array, first, count)
    half = count // 2
    half -= half % 8
    return _pairwise(array, first, half) + _pairwise(array, first + half, count - half)
