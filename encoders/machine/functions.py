"""Python's built-in functions on numbers and series of them, as compiled encoders call them."""

from __future__ import annotations

import math
from typing import Any

from numba import types

from encoders.machine.arithmetic import negative
from encoders.machine.comparison import greater, less, missing
from encoders.machine.conversion import code_of_text, emit_truncated, item, to_float, to_int, truth
from encoders.machine.kinds import (
    F64,
    GAVE_UP,
    TextType,
    as_float,
    as_int,
    give_up_if,
    implements,
    intrinsic,
    is_array,
    is_float,
    is_inexact,
    is_int,
    is_number,
    plain,
    refused,
    register_jitable,
    shown,
)
from encoders.probe import find

_find = register_jitable(find)


def is_series(kind: Any) -> bool:
    """Whether it holds numbers of one kind, one after the other."""
    series = is_array(kind) or isinstance(kind, types.List | types.UniTuple)
    return series and is_number(kind.dtype) and getattr(kind, "count", 1) > 0


def stub(name: str) -> Any:
    """Make a name for an overload."""

    def of_overload(*_arguments: Any) -> Any:
        raise NotImplementedError  # only compiled code calls it

    of_overload.__name__ = name
    return of_overload


absolute, least, greatest = stub("abs"), stub("min"), stub("max")
rounded_to, ordered, lookup = stub("round"), stub("sorted"), stub("lookup")
any_of, all_of = stub("any"), stub("all")


@implements(absolute)
def _absolute(a: Any) -> Any:
    if is_int(a):
        return lambda a: negative(a) if to_int(a) < 0 else to_int(a)
    if is_float(a):
        return lambda a: math.fabs(to_float(a))
    raise refused(f"abs() of {shown(a)}")


def _pair(name: str, symbol: str) -> Any:
    """Min or max of two numbers: the first of those that no other is before, whatever NaN is compared with."""

    def pair(_typing: Any, a: Any, b: Any) -> Any:
        if not (is_number(a) and is_number(b)):
            raise refused(f"{name}() of {shown(a)} and {shown(b)}")
        whole = is_int(a) and is_int(b)

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pairs = list(zip(signature.args, arguments, strict=True))
            if whole:
                one, other = (as_int(context, builder, *each) for each in pairs)
                return builder.select(builder.icmp_signed(symbol, other, one), other, one)
            for kind, value in pairs:
                if is_int(kind):
                    give_up_if(context, builder, is_inexact(builder, as_int(context, builder, kind, value)))
            one, other = (as_float(context, builder, *each) for each in pairs)
            return builder.select(builder.fcmp_ordered(symbol, other, one), other, one)

        return (types.int64 if whole else types.float64)(a, b), code

    pair.__name__ = name
    return intrinsic(pair)


least_of_two, greatest_of_two = _pair("min", "<"), _pair("max", ">")


@implements(least)
def _least(series: Any) -> Any:
    return _extreme("min", series, less)


@implements(greatest)
def _greatest(series: Any) -> Any:
    return _extreme("max", series, greater)


def _extreme(name: str, series: Any, before: Any) -> Any:
    if not is_series(series):
        raise refused(f"{name}() of {shown(series)}")

    def of_series(series: Any) -> Any:
        if len(series) == 0:
            raise ValueError(GAVE_UP)
        found = item(series[0])
        for i in range(1, len(series)):
            each = item(series[i])
            if before(each, found):
                found = each
        return found

    return of_series


@intrinsic
def rounded(_typing: Any, value: Any) -> Any:
    """round(value): an integer, of two the even one."""
    if not is_number(value):
        raise refused(f"round() of {shown(value)}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        if is_int(kind):
            return as_int(context, builder, kind, arguments[0])
        nearest = builder.module.declare_intrinsic("llvm.rint", [F64])
        found = builder.call(nearest, [as_float(context, builder, kind, arguments[0])])
        return emit_truncated(context, builder, found)

    return types.int64(value), code


@implements(rounded_to)
def _rounded_to(value: Any, digits: Any) -> Any:
    if not (is_number(value) and is_int(digits)):
        raise refused(f"round() of {shown(value)} to {shown(digits)} digits")
    if is_int(value):

        def of_int(value: Any, digits: Any) -> Any:
            if digits < 0:
                raise OverflowError(GAVE_UP)
            return to_int(value)

        return of_int
    return lambda value, digits: _round_decimal(to_float(value), to_int(digits))


@register_jitable
def _round_decimal(value: float, digits: int) -> float:
    """Round as Python does, which looks at the exact value; give up where NumPy's own rounding differs."""
    if digits < 0 or digits > 15 or not math.fabs(value) < 2.0**52 / 10.0**digits:
        raise OverflowError(GAVE_UP)
    power = 1.0
    for _ in range(digits):
        power *= 10.0
    product = value * power
    nearest = float(math.floor(product + 0.5))
    # product + rest is exact: Dekker's multiplication.
    high, high_power = value * 134217729.0, power * 134217729.0
    value_high, power_high = high - (high - value), high_power - (high_power - power)
    value_low, power_low = value - value_high, power - power_high
    rest = (
        (value_high * power_high - product) + value_high * power_low + value_low * power_high
    ) + value_low * power_low
    beyond = (product - nearest) + rest
    if beyond > 0.5 or (beyond == 0.5 and nearest % 2.0 == 1.0):
        nearest += 1.0
    elif beyond < -0.5 or (beyond == -0.5 and nearest % 2.0 == 1.0):
        nearest -= 1.0
    if nearest != _even(product):
        raise OverflowError(GAVE_UP)
    return math.copysign(nearest / power, value)


@register_jitable
def _even(value: float) -> float:
    floor = float(math.floor(value))
    if value - floor == 0.5:
        return floor if floor % 2.0 == 0.0 else floor + 1.0
    return floor if value - floor < 0.5 else floor + 1.0


@implements(any_of)
def _any_of(series: Any) -> Any:
    if not (is_array(series) or isinstance(series, types.List | types.UniTuple)):
        raise refused(f"any() of {shown(series)}")

    def search(series: Any) -> Any:
        for each in series:  # noqa: SIM110  # Numba has no any()
            if truth(each):
                return True
        return False

    return search


@implements(all_of)
def _all_of(series: Any) -> Any:
    if not (is_array(series) or isinstance(series, types.List | types.UniTuple)):
        raise refused(f"all() of {shown(series)}")

    def search(series: Any) -> Any:
        for each in series:  # noqa: SIM110  # Numba has no all()
            if not truth(each):
                return False
        return True

    return search


@implements(ordered)
def _ordered(series: Any) -> Any:
    if not is_series(series):
        raise refused(f"sorted() of {shown(series)}")

    def merge_sort(series: Any) -> Any:
        found = [item(each) for each in series]
        for each in found:
            if each != each:  # the order of NaN is an accident of the algorithm
                raise ValueError(GAVE_UP)
        other = found.copy()
        width = 1
        while width < len(found):
            for start in range(0, len(found), 2 * width):
                left, middle = start, min(start + width, len(found))
                right, end = middle, min(start + 2 * width, len(found))
                for at in range(start, end):
                    if left < middle and (right >= end or not less(found[right], found[left])):
                        other[at] = found[left]
                        left += 1
                    else:
                        other[at] = found[right]
                        right += 1
            found, other = other, found
            width *= 2
        return found

    return merge_sort


@implements(lookup)
def _lookup(table: Any, key: Any) -> Any:  # noqa: ARG001  # the signature of lookup
    if isinstance(plain(key), TextType):
        return lambda table, key: -1 if missing(key) else _find(table, code_of_text(key))
    if not is_int(key):
        raise refused(f"lookup by {shown(key)}")
    return lambda table, key: _find(table, to_int(key))
