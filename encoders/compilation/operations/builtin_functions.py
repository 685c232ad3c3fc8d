"""Python's built-in functions on numbers and series of them, as compiled encoders call them."""

from __future__ import annotations

import math
from typing import Any

from numba import types

from encoders.compilation.operations.arithmetic import negative
from encoders.compilation.operations.comparison import greater, less, missing
from encoders.compilation.operations.conversion import (
    code_of_text,
    emit_truncated,
    item,
    to_float,
    to_int,
    truth,
)
from encoders.compilation.operations.intrinsics import (
    emitted,
    implements,
    intrinsic,
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
    TextType,
    as_float,
    as_int,
    give_up_if,
    is_array,
    is_float,
    is_inexact,
    is_int,
    is_number,
    plain,
    shown,
)
from encoders.compilation.probe import find

_find = register_jitable(find)


def is_series(kind: Any) -> bool:
    """Whether it is a sequence of numbers of one kind."""
    series = is_array(kind) or isinstance(kind, types.List | types.UniTuple)
    return series and is_number(kind.dtype) and getattr(kind, "count", 1) > 0


absolute, least, greatest = overload_target("abs"), overload_target("min"), overload_target("max")
rounded_to, ordered, lookup = overload_target("round"), overload_target("sorted"), overload_target("lookup")
any_of, all_of = overload_target("any"), overload_target("all")


@implements(absolute)
def _absolute(a: Any) -> Any:
    if is_int(a):
        return lambda a: negative(a) if to_int(a) < 0 else to_int(a)
    if is_float(a):
        return lambda a: math.fabs(to_float(a))
    raise refused(f"abs() of {shown(a)}")


def _pair(name: str, symbol: str) -> Any:
    """Min or max of two numbers: the first unless the second is strictly before it, also where one is NaN."""

    def pair(_typing: Any, a: Any, b: Any) -> Any:
        require_numbers(f"{name}()", a, b)
        if is_int(a) and is_int(b):
            return emitted(types.int64, (a, b), emit_int)
        return emitted(types.float64, (a, b), emit_float)

    def emit_int(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        one, other = (as_int(context, builder, *each) for each in zip(kinds, values, strict=True))
        return builder.select(builder.icmp_signed(symbol, other, one), other, one)

    def emit_float(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        pairs = list(zip(kinds, values, strict=True))
        for kind, value in pairs:
            if is_int(kind):
                give_up_if(context, builder, is_inexact(builder, as_int(context, builder, kind, value)))
        one, other = (as_float(context, builder, *each) for each in pairs)
        return builder.select(builder.fcmp_ordered(symbol, other, one), other, one)

    return intrinsic_of(name, 2, pair)


_least_of_two, _greatest_of_two = _pair("min", "<"), _pair("max", ">")


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
        extreme = item(series[0])
        for i in range(1, len(series)):
            each = item(series[i])
            if before(each, extreme):
                extreme = each
        return extreme

    return of_series


@intrinsic
def rounded(_typing: Any, value: Any) -> Any:
    """round(value): the nearest integer, the even one of two."""
    require_numbers("round()", value)
    return unary(types.int64, value, _emit_rounded)


def _emit_rounded(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if is_int(kind):
        return as_int(context, builder, kind, value)
    nearest = builder.module.declare_intrinsic("llvm.rint", [F64])
    return emit_truncated(context, builder, builder.call(nearest, [as_float(context, builder, kind, value)]))


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
    """Round as Python does, by the exact value; give up where NumPy's rounding differs from Python's."""
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


def _search(name: str, truth_searched: bool) -> Any:
    """Choose any() or all(): the truth of the first element that decides, or of none."""

    def choose(series: Any) -> Any:
        if not (is_array(series) or isinstance(series, types.List | types.UniTuple)):
            raise refused(f"{name}() of {shown(series)}")

        def search(series: Any) -> Any:
            for each in series:
                if truth(each) == truth_searched:
                    return truth_searched
            return not truth_searched

        return search

    return choose


implements(any_of)(_search("any", True))
implements(all_of)(_search("all", False))


@implements(ordered)
def _ordered(series: Any) -> Any:
    if not is_series(series):
        raise refused(f"sorted() of {shown(series)}")

    def merge_sort(series: Any) -> Any:
        result = [item(each) for each in series]
        for each in result:
            if each != each:  # the position of NaN depends on the algorithm
                raise ValueError(GAVE_UP)
        other = result.copy()
        width = 1
        while width < len(result):
            for start in range(0, len(result), 2 * width):
                left, middle = start, min(start + width, len(result))
                right, end = middle, min(start + 2 * width, len(result))
                for at in range(start, end):
                    if left < middle and (right >= end or not less(result[right], result[left])):
                        other[at] = result[left]
                        left += 1
                    else:
                        other[at] = result[right]
                        right += 1
            result, other = other, result
            width *= 2
        return result

    return merge_sort


@implements(lookup)
def _lookup(table: Any, key: Any) -> Any:  # noqa: ARG001  # the signature of lookup
    if isinstance(plain(key), TextType):
        return lambda table, key: -1 if missing(key) else _find(table, code_of_text(key))
    if not is_int(key):
        raise refused(f"lookup by {shown(key)}")
    return lambda table, key: _find(table, to_int(key))


OPERATIONS: dict[str, Any] = {
    "absolute": absolute,
    "all_of": all_of,
    "any_of": any_of,
    "greatest": greatest,
    "greatest_of_two": _greatest_of_two,
    "least": least,
    "least_of_two": _least_of_two,
    "lookup": lookup,
    "ordered": ordered,
    "rounded": rounded,
    "rounded_to": rounded_to,
}
