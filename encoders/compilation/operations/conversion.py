"""Conversions between kinds of numbers, into and out of arrays, and between texts and their codes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from encoders.compilation.operations.intrinsics import (
    emitted,
    implements,
    intrinsic,
    refused,
    require_numbers,
    same_value,
    unary,
)
from encoders.compilation.operations.value_types import (
    EMPTY,
    F64,
    I64,
    TEXT,
    TextType,
    as_float,
    as_int,
    give_up_if,
    is_array,
    is_float,
    is_int,
    is_number,
    is_text,
    plain,
    shown,
    value_of,
)

_builders: Any = cgutils


def emit_truncated(context: Any, builder: Any, value: Any) -> Any:
    """Convert a float64 to an int64 towards zero; NaN and what does not fit give up."""
    limit = ir.Constant(F64, 2.0**63)
    inside = builder.and_(
        builder.fcmp_ordered("<", value, limit), builder.fcmp_ordered(">=", value, builder.fneg(limit))
    )
    give_up_if(context, builder, builder.not_(inside))
    return builder.fptosi(value, I64)


def as_truncated_int(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Convert a number to int64, a float towards zero."""
    if is_int(kind):
        return as_int(context, builder, kind, value)
    return emit_truncated(context, builder, as_float(context, builder, kind, value))


@intrinsic
def item(_typing: Any, value: Any) -> Any:
    """Convert an element of an array to Python's own kind of number: 64-bit float or 64-bit integer."""
    kind = types.unliteral(value)
    if isinstance(kind, types.Float):
        return unary(types.float64, value, as_float)
    if isinstance(kind, types.Integer):
        return unary(types.int64, value, as_int)
    return same_value((value,))


@intrinsic
def fit(_typing: Any, container: Any, value: Any) -> Any:
    """Convert a value as assigning it to an array's element does; anything but a scalar stays as it is."""
    if not is_array(container) or is_array(value) or isinstance(value, types.List | types.BaseTuple):
        return same_value((container, value), place=1)
    dtype = container.dtype
    if not (is_number(value) and is_number(dtype)):
        raise refused(f"{shown(value)} cannot be put into {shown(container)}")

    def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        return _fitted(context, builder, dtype, kinds[1], values[1])

    return emitted(dtype, (container, value), emit)


def _fitted(context: Any, builder: Any, dtype: Any, kind: Any, value: Any) -> Any:
    if isinstance(dtype, types.Boolean):
        kind, value = value_of(context, builder, kind, value)
        return context.cast(builder, value, kind, types.boolean)
    if isinstance(dtype, types.Float):  # NumPy too converts an integer to a double first
        return context.cast(builder, as_float(context, builder, kind, value), types.float64, dtype)
    if is_float(kind):
        whole = emit_truncated(context, builder, as_float(context, builder, kind, value))
    else:
        whole = as_int(context, builder, kind, value)
    narrow = context.cast(builder, whole, types.int64, dtype)
    back = context.cast(builder, narrow, dtype, types.int64)
    lost = builder.icmp_signed("!=", back, whole)
    if not dtype.signed:
        lost = builder.or_(lost, builder.icmp_signed("<", whole, ir.Constant(I64, 0)))
    give_up_if(context, builder, lost)
    return narrow


@intrinsic
def to_int(_typing: Any, value: Any) -> Any:
    """int(value)."""
    require_numbers("int()", value)
    return unary(types.int64, value, as_truncated_int)


@intrinsic
def to_float(_typing: Any, value: Any) -> Any:
    """float(value)."""
    require_numbers("float()", value)
    return unary(types.float64, value, as_float)


@intrinsic
def truth(_typing: Any, value: Any) -> Any:
    """bool(value) of a number, a list or a text; None and the empty text are false."""
    if isinstance(value, types.List):

        def emit_length(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            return context.compile_internal(builder, _has_any, types.boolean(*kinds), values)

        return emitted(types.boolean, (value,), emit_length)
    if not (is_number(value) or is_text(value)):
        raise refused(f"the truth of {shown(value)}: compare it, or its length")
    return unary(types.boolean, value, _truth)


def _truth(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    kind, plain_value = value_of(context, builder, kind, value)
    if kind == TEXT:
        not_none = builder.icmp_signed("!=", plain_value, ir.Constant(I64, 0))
        return builder.and_(not_none, builder.icmp_signed("!=", plain_value, ir.Constant(I64, EMPTY)))
    return context.cast(builder, plain_value, kind, types.boolean)


def _has_any(values: Any) -> bool:
    return len(values) > 0


@implements(bool)
def _bool_of_text(a: Any) -> Any:
    return (lambda a: truth(a)) if isinstance(a, TextType) else None


@intrinsic
def text_code(_typing: Any, value: Any) -> Any:
    """Give the code of a text; give up on None, which has no code in plain Python."""
    if not is_text(value):
        raise refused(f"text_code() of {shown(value)}")

    def emit(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        code = _code(context, builder, kind, value)
        give_up_if(context, builder, builder.icmp_signed("==", code, ir.Constant(I64, 0)))
        return code

    return unary(types.int64, value, emit)


@intrinsic
def code_of_text(_typing: Any, value: Any) -> Any:
    """Give a text's code, 0 for None."""
    return unary(types.int64, value, _code)


def _code(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return value_of(context, builder, kind, value)[1]


@intrinsic
def as_text(_typing: Any, value: Any) -> Any:
    """Give a code the type of text."""

    def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        return as_int(context, builder, kinds[0], values[0])

    return emitted(TEXT, (plain(value),), emit)


@intrinsic
def borrow(_typing: Any, array: Any) -> Any:
    """Give the same array without reference counting: the loop's caller owns it meanwhile."""
    return _view(array, array)


@intrinsic
def borrow_texts(_typing: Any, array: Any) -> Any:
    """Give an array of codes as one of text, without reference counting."""
    return _view(array.copy(dtype=TEXT), array)


def _view(result: Any, array: Any) -> tuple[Any, Any]:
    def emit(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        source = _builders.create_struct_proxy(kind)(context, builder, value=value)
        view = _builders.create_struct_proxy(result)(context, builder)
        for part in ("nitems", "itemsize", "shape", "strides"):
            setattr(view, part, getattr(source, part))
        view.data = builder.bitcast(source.data, view.data.type)
        view.meminfo = _builders.get_null_value(view.meminfo.type)
        view.parent = _builders.get_null_value(view.parent.type)
        return view._getvalue()

    return unary(result, array, emit)


OPERATIONS: dict[str, Any] = {
    "fit": fit,
    "item": item,
    "text_code": text_code,
    "to_float": to_float,
    "to_int": to_int,
    "truth": truth,
}
