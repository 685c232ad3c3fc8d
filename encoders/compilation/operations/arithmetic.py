"""Arithmetic on numbers as Python defines it: an integer that leaves 64 bits gives up instead of wrapping around."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from encoders.compilation.operations.intrinsics import delegate, emitted, intrinsic, intrinsic_of, refused, unary
from encoders.compilation.operations.value_types import (
    F64,
    GAVE_UP,
    I64,
    SMALLEST,
    as_float,
    as_int,
    give_up_if,
    is_array,
    is_float,
    is_inexact,
    is_int,
    is_number,
    shown,
)

Emit = Callable[[Any, Any, Any, Any], Any]  # (context, builder, left, right) → value
_OVERFLOWING = {"add": "sadd_with_overflow", "subtract": "ssub_with_overflow", "multiply": "smul_with_overflow"}
_PLAIN = {"add": "add", "subtract": "sub", "multiply": "mul"}
_WIDE = (types.int64, types.float64)


def _is_wide_array(kind: Any) -> bool:
    return is_array(kind) and kind.dtype in _WIDE


def _is_bit_array(kind: Any) -> bool:
    return is_array(kind) and (kind.dtype == types.boolean or kind.dtype == types.int64)


def _is_sequence(kind: Any) -> bool:
    return isinstance(kind, types.List | types.BaseTuple)


def _checked(name: str) -> Emit:
    def emit(context: Any, builder: Any, left: Any, right: Any) -> Any:
        pair = getattr(builder, _OVERFLOWING[name])(left, right)
        give_up_if(context, builder, builder.extract_value(pair, 1))
        return getattr(builder, _PLAIN[name])(left, right)  # LLVM optimises this better than the pair's first part

    return emit


def _divided(context: Any, builder: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """Give quotient and remainder, rounded down."""
    zero = ir.Constant(I64, 0)
    least = builder.icmp_signed("==", left, ir.Constant(I64, SMALLEST))
    beyond = builder.and_(least, builder.icmp_signed("==", right, ir.Constant(I64, -1)))
    give_up_if(context, builder, builder.or_(builder.icmp_signed("==", right, zero), beyond))
    quotient, remainder = builder.sdiv(left, right), builder.srem(left, right)
    signs_differ = builder.icmp_signed("<", builder.xor(remainder, right), zero)
    down = builder.and_(builder.icmp_signed("!=", remainder, zero), signs_differ)
    lower = builder.sub(quotient, ir.Constant(I64, 1))
    return builder.select(down, lower, quotient), builder.select(down, builder.add(remainder, right), remainder)


def _true_divide_int(context: Any, builder: Any, left: Any, right: Any) -> Any:
    large = builder.or_(is_inexact(builder, left), is_inexact(builder, right))
    give_up_if(context, builder, builder.or_(large, builder.icmp_signed("==", right, ir.Constant(I64, 0))))
    return builder.fdiv(builder.sitofp(left, F64), builder.sitofp(right, F64))


def _true_divide_float(context: Any, builder: Any, left: Any, right: Any) -> Any:
    give_up_if(context, builder, builder.fcmp_ordered("==", right, ir.Constant(F64, 0.0)))
    return builder.fdiv(left, right)


def _of_python(function: Callable[..., Any], kind: Any) -> Emit:
    """Compile a function of this module for two operands of a type."""

    def emit(context: Any, builder: Any, left: Any, right: Any) -> Any:
        return context.compile_internal(builder, function, kind(kind, kind), (left, right))

    return emit


@intrinsic
def _fmod(_typing: Any, x: Any, y: Any) -> Any:
    """C's fmod, which Numba does not have."""
    return emitted(types.float64, (x, y), lambda _context, builder, _kinds, values: builder.frem(*values))


def _float_floor(x: float, y: float) -> float:  # as CPython does it
    if y == 0.0:
        raise ZeroDivisionError(GAVE_UP)
    rest = _fmod(x, y)
    quotient = (x - rest) / y
    if rest != 0.0 and (y < 0.0) != (rest < 0.0):
        quotient -= 1.0
    if quotient == 0.0:
        return math.copysign(0.0, x / y)
    floor = float(math.floor(quotient)) if abs(quotient) < 2.0**52 else quotient
    return floor + 1.0 if quotient - floor > 0.5 else floor


def _float_remainder(x: float, y: float) -> float:  # as CPython does it
    if y == 0.0:
        raise ZeroDivisionError(GAVE_UP)
    rest = _fmod(x, y)
    if rest == 0.0:
        return math.copysign(0.0, y)
    return rest + y if (y < 0.0) != (rest < 0.0) else rest


def _int_power(base: Any, exponent: Any) -> Any:
    if exponent < 0:
        raise OverflowError(GAVE_UP)  # Python gives a float here and an integer elsewhere: machine code has one type
    result = 1
    while exponent > 0:
        if exponent & 1:
            result = multiply(result, base)
        exponent >>= 1
        if exponent > 0:
            base = multiply(base, base)
    return result


def float_power(context: Any, builder: Any, left: Any, right: Any) -> Any:
    """C's pow; give up where Python raises, or gives a complex number."""
    # Behind a barrier: LLVM rewrites pow(x, 2.0) as x * x, and pow(2.0, x) as exp2(x), which round differently.
    barrier = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0", side_effect=False)
    hidden = [builder.bitcast(builder.call(barrier, [builder.bitcast(value, I64)]), F64) for value in (left, right)]
    function_type = ir.FunctionType(F64, [F64, F64])
    power = builder.module.declare_intrinsic("llvm.pow", [F64], function_type)
    result = builder.call(power, hidden)
    give_up_unless_usual(context, builder, result, (left, right))
    return result


def give_up_unless_usual(context: Any, builder: Any, result: Any, arguments: Any) -> None:
    """Give up where finite arguments give no finite number: Python raises there, or gives another kind of number."""
    zero = ir.Constant(F64, 0.0)

    def not_finite(value: Any) -> Any:
        return builder.fcmp_unordered("!=", builder.fsub(value, value), zero)

    excused = ir.Constant(ir.IntType(1), 0)
    for value in arguments:
        excused = builder.or_(excused, not_finite(value))
    number = builder.fcmp_ordered("ord", result, result)
    excused = builder.and_(excused, builder.or_(number, _any_nan(builder, arguments)))
    give_up_if(context, builder, builder.and_(not_finite(result), builder.not_(excused)))


def _any_nan(builder: Any, arguments: Any) -> Any:
    any_nan = ir.Constant(ir.IntType(1), 0)
    for value in arguments:
        any_nan = builder.or_(any_nan, builder.fcmp_unordered("uno", value, value))
    return any_nan


def _shifted(left_shift: bool) -> Emit:
    def emit(context: Any, builder: Any, left: Any, right: Any) -> Any:
        give_up_if(context, builder, builder.icmp_unsigned(">", right, ir.Constant(I64, 63)))
        if not left_shift:
            return builder.ashr(left, right)
        shifted = builder.shl(left, right)
        give_up_if(context, builder, builder.icmp_signed("!=", builder.ashr(shifted, right), left))
        return shifted

    return emit


def _native(method: str) -> Emit:
    return lambda _context, builder, left, right: getattr(builder, method)(left, right)


# name → Numba's operator for arrays and sequences; operation on integers and its result type; operation on floats
_BINARY: dict[str, tuple[Any, Emit, Any, Emit | None]] = {
    "add": (operator.add, _checked("add"), types.int64, _native("fadd")),
    "subtract": (operator.sub, _checked("subtract"), types.int64, _native("fsub")),
    "multiply": (operator.mul, _checked("multiply"), types.int64, _native("fmul")),
    "true_divide": (operator.truediv, _true_divide_int, types.float64, _true_divide_float),
    "floor_divide": (None, lambda *a: _divided(*a)[0], types.int64, _of_python(_float_floor, types.float64)),
    "remainder": (None, lambda *a: _divided(*a)[1], types.int64, _of_python(_float_remainder, types.float64)),
    "power": (None, _of_python(_int_power, types.int64), types.int64, float_power),
    "shift_left": (None, _shifted(True), types.int64, None),
    "shift_right": (None, _shifted(False), types.int64, None),
    "bit_and": (operator.and_, _native("and_"), types.int64, None),
    "bit_or": (operator.or_, _native("or_"), types.int64, None),
    "bit_xor": (operator.xor, _native("xor"), types.int64, None),
}


def _delegated(name: str, a: Any, b: Any) -> bool:
    """Whether Numba's own definition is NumPy's and Python's: elementwise work, joining lists and tuples."""
    if name.startswith("bit_"):
        bits = [kind for kind in (a, b) if is_array(kind)]
        return bool(bits) and all(_is_bit_array(kind) and kind.dtype == bits[0].dtype for kind in (a, b))
    if _is_sequence(a):
        return (name == "add" and type(a) is type(b)) or (
            name == "multiply" and is_int(b) and isinstance(a, types.List)
        )
    arrays = _is_wide_array(a) or _is_wide_array(b)
    return arrays and all(_is_wide_array(kind) or kind in _WIDE for kind in map(types.unliteral, (a, b)))


def _operation(name: str, in_place: bool = False) -> Any:
    function, emit_int, int_result, emit_float = _BINARY[name]

    def operation(typing: Any, a: Any, b: Any) -> Any:
        if is_int(a) and is_int(b):
            result, emit, convert = int_result, emit_int, as_int
            if name.startswith("bit_") and types.unliteral(a) == types.unliteral(b) == types.boolean:
                result = types.boolean
        elif is_number(a) and is_number(b) and emit_float is not None:
            result, emit, convert = types.float64, emit_float, as_float
        elif function is not None and _delegated(name, a, b):
            if in_place and (is_array(a) or isinstance(a, types.List)):
                return delegate(typing, getattr(operator, f"i{function.__name__.strip('_')}"), (a, b))
            return delegate(typing, function, (a, b))
        else:
            raise refused(f"{name.replace('_', ' ')} of {shown(a)} and {shown(b)}")

        def emit_converted(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            left, right = (convert(context, builder, *pair) for pair in zip(kinds, values, strict=True))
            value = emit(context, builder, left, right)
            return context.cast(builder, value, types.int64, result) if result == types.boolean else value

        return emitted(result, (a, b), emit_converted)

    return intrinsic_of(f"{name}_in_place" if in_place else name, 2, operation)


@intrinsic
def negative(typing: Any, a: Any) -> Any:
    """-a."""
    if _is_wide_array(a):
        return delegate(typing, operator.neg, (a,))
    if is_int(a):
        return unary(types.int64, a, _negate_int)
    if is_float(a):
        return unary(types.float64, a, lambda context, builder, *each: builder.fneg(as_float(context, builder, *each)))
    raise refused(f"- of {shown(a)}")


def _negate_int(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return _checked("subtract")(context, builder, ir.Constant(I64, 0), as_int(context, builder, kind, value))


@intrinsic
def _invert(typing: Any, a: Any) -> Any:
    """~a."""
    if _is_bit_array(a):
        return delegate(typing, operator.invert, (a,))
    if is_int(a):
        return unary(types.int64, a, lambda context, builder, *each: builder.not_(as_int(context, builder, *each)))
    raise refused(f"~ of {shown(a)}")


@intrinsic
def _positive(_typing: Any, a: Any) -> Any:
    """+a."""
    if not is_number(a):
        raise refused(f"+ of {shown(a)}")
    return unary(types.int64, a, as_int) if is_int(a) else unary(types.float64, a, as_float)


OPERATIONS: dict[str, Any] = {
    **{name: _operation(name) for name in _BINARY},
    **{f"{name}_in_place": _operation(name, in_place=True) for name in _BINARY},
    "negative": negative,
    "invert": _invert,
    "positive": _positive,
}
add, multiply = OPERATIONS["add"], OPERATIONS["multiply"]
