"""The functions of math, which give up where Python raises, and sums rounded as Python and NumPy round them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types

from encoders.compilation.operations.arithmetic import add, float_power, give_up_unless_usual
from encoders.compilation.operations.builtin_functions import is_series
from encoders.compilation.operations.conversion import emit_truncated, item, to_float, to_int
from encoders.compilation.operations.intrinsics import (
    emitted,
    implements,
    intrinsic_of,
    overload_target,
    refused,
    register_jitable,
    require_numbers,
    unary,
)
from encoders.compilation.operations.value_types import (
    F64,
    GAVE_UP,
    as_float,
    as_int,
    is_array,
    is_float,
    is_int,
    is_number,
    shown,
)

COMPENSATED = sys.version_info >= (3, 12)  # from 3.12 on sum() of floats compensates for rounding
_BLOCK = 128  # numbers that NumPy adds without splitting them into halves


def _fmod(context: Any, builder: Any, x: Any, y: Any) -> Any:
    result = builder.frem(x, y)
    give_up_unless_usual(context, builder, result, (x, y))
    return result


_OWN: dict[Any, Any] = {math.fmod: _fmod, math.pow: float_power}  # Numba's differ from C's


def _checked(function: Any, arity: int) -> Any:
    """Compile a function of math so that it gives up wherever finite numbers give no finite number."""

    def checked(typing: Any, *kinds: Any) -> Any:
        require_numbers(f"math.{function.__name__}()", *kinds)
        if function not in _OWN:
            function_type = typing.resolve_value_type(function)
            inner = function_type.get_call_type(typing, (types.float64,) * len(kinds), {})

        def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            floats = [as_float(context, builder, *each) for each in zip(kinds, values, strict=True)]
            if function in _OWN:
                return _OWN[function](context, builder, *floats)
            result = context.get_function(function_type, inner)(builder, floats)
            give_up_unless_usual(context, builder, result, floats)
            return result

        return emitted(types.float64, kinds, emit)

    return intrinsic_of(function.__name__, arity, checked)


def _of_number(name: str, result: Any, emit: Callable[..., Any]) -> Any:
    """Compile a function of math of one number. emit: (name, context, builder, kind, value) → result."""

    def choose(_typing: Any, a: Any) -> Any:
        require_numbers(f"math.{name}()", a)
        return unary(result, a, lambda *parts: emit(name, *parts))

    return intrinsic_of(name, 1, choose)


def _emit_whole(name: str, context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if is_int(kind):
        return as_int(context, builder, kind, value)
    rounding = builder.module.declare_intrinsic(f"llvm.{name}", [F64])
    return emit_truncated(context, builder, builder.call(rounding, [as_float(context, builder, kind, value)]))


def _emit_test(name: str, context: Any, builder: Any, kind: Any, value: Any) -> Any:
    number = as_float(context, builder, kind, value)
    nan = builder.fcmp_unordered("uno", number, number)
    finite = builder.fcmp_ordered("==", builder.fsub(number, number), ir.Constant(F64, 0.0))
    if name == "isinf":
        return builder.not_(builder.or_(nan, finite))
    return nan if name == "isnan" else finite


_ONE = "sqrt exp expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh fabs"
_total, _array_total, _array_mean = overload_target("sum"), overload_target("array.sum"), overload_target("array.mean")
OPERATIONS: dict[str, Any] = {
    **{f"math_{name}": _checked(getattr(math, name), 1) for name in _ONE.split()},
    **{f"math_{name}": _checked(getattr(math, name), 2) for name in ("atan2", "copysign", "fmod", "pow")},
    **{f"math_{name}": _of_number(name, types.int64, _emit_whole) for name in ("floor", "ceil", "trunc")},
    **{f"math_{name}": _of_number(name, types.boolean, _emit_test) for name in ("isnan", "isinf", "isfinite")},
    "total": _total,
    "array_total": _array_total,
    "array_mean": _array_mean,
}


@implements(_total)
def _choose_total(series: Any, start: Any) -> Any:
    if not is_series(series) or not is_number(start):
        raise refused(f"sum() of {shown(series)}")
    if is_int(series.dtype) or not is_float(series.dtype):

        def of_ints(series: Any, start: Any) -> Any:
            result = add(start, 0)
            for i in range(len(series)):
                result = add(result, item(series[i]))
            return result

        return of_ints
    if not COMPENSATED or (is_array(series) and series.mutable and series.dtype == types.float64):
        return lambda series, start: _one_by_one(
            series, to_float(start)
        )  # Python adds NumPy's scalars without compensation
    if is_array(series):
        return lambda series, start: _compensated(series, to_float(start))

    def of_either(series: Any, start: Any) -> Any:
        result = _compensated(series, to_float(start))
        other = _one_by_one(series, to_float(start))
        if result != other and (result == result or other == other):
            raise OverflowError(GAVE_UP)
        return result

    return of_either


@register_jitable
def _one_by_one(series: Any, start: float) -> float:
    result = start
    for i in range(len(series)):
        result += to_float(series[i])
    return result


@register_jitable
def _compensated(series: Any, start: float) -> float:
    if len(series) == 0:
        return start
    result = start + to_float(series[0])
    lost = 0.0
    for i in range(1, len(series)):
        each = to_float(series[i])
        longer = result + each
        lost += (result - longer) + each if math.fabs(result) >= math.fabs(each) else (each - longer) + result
        result = longer
    return result + lost if lost != 0.0 and math.isfinite(lost) else result


@implements(_array_total)
def _choose_array_total(array: Any) -> Any:
    if is_array(array) and array.ndim == 1 and array.dtype == types.float64:
        return lambda array: 0.0 + _pairwise(array, 0, len(array))
    if is_array(array) and array.ndim == 1 and array.dtype in (types.int64, types.boolean):

        def of_ints(array: Any) -> Any:
            result = 0
            for i in range(len(array)):
                result += to_int(array[i])  # NumPy's integers wrap around as well
            return result

        return of_ints
    raise refused(f"sum() of {shown(array)}")


@implements(_array_mean)
def _choose_array_mean(array: Any) -> Any:
    if not (is_array(array) and array.ndim == 1 and array.dtype == types.float64):
        raise refused(f"mean() of {shown(array)}")

    def mean(array: Any) -> Any:
        if len(array) == 0:
            raise ValueError(GAVE_UP)
        return (0.0 + _pairwise(array, 0, len(array))) / len(array)

    return mean


@register_jitable
def _block(array: Any, first: int, count: int) -> float:
    result = -0.0
    if count < 8:
        for i in range(count):
            result += array[first + i]
        return result
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
    result = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(at, count):
        result += array[first + i]
    return result


@numba.njit(boundscheck=True, nogil=True, error_model="python")
def _pairwise(array: Any, first: int, count: int) -> float:
    """Add as NumPy does: each half separately, which rounds less than adding one by one."""
    if count <= _BLOCK:
        return _block(array, first, count)
    half = count // 2
    half -= half % 8
    return _pairwise(array, first, half) + _pairwise(array, first + half, count - half)
