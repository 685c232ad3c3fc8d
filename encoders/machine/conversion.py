"""What goes into and comes out of arrays, and from one kind of number to another, as in plain Python."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed

from encoders.machine.kinds import (
    EMPTY,
    F64,
    I64,
    TEXT,
    TextType,
    as_float,
    as_int,
    give_up_if,
    implements,
    intrinsic,
    is_array,
    is_float,
    is_int,
    is_number,
    is_text,
    plain,
    refused,
    shown,
    value_of,
)

_builders: Any = cgutils


def emit_truncated(context: Any, builder: Any, value: Any) -> Any:
    """Turn a float64 into an int64 towards zero; NaN and what does not fit give up."""
    limit = ir.Constant(F64, 2.0**63)
    inside = builder.and_(
        builder.fcmp_ordered("<", value, limit), builder.fcmp_ordered(">=", value, builder.fneg(limit))
    )
    give_up_if(context, builder, builder.not_(inside))
    return builder.fptosi(value, I64)


@intrinsic
def item(_typing: Any, value: Any) -> Any:
    """Give what an array holds as Python's own kind of number: a float is of 64 bits, and so is an integer."""
    kind = types.unliteral(value)
    if isinstance(kind, types.Float):
        wide, convert = types.float64, as_float
    elif isinstance(kind, types.Integer):
        wide, convert = types.int64, as_int
    else:

        def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

        return value(value), same

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return convert(context, builder, signature.args[0], arguments[0])

    return wide(value), code


@intrinsic
def fit(_typing: Any, container: Any, value: Any) -> Any:
    """Give a value as assigning it to an element would convert it; what is no scalar stays as it is."""
    if not is_array(container) or is_array(value) or isinstance(value, types.List | types.BaseTuple):

        def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return impl_ret_borrowed(context, builder, signature.return_type, arguments[1])

        return value(container, value), same
    dtype = container.dtype
    if not is_number(value) or not (is_number(dtype)):
        raise refused(f"{shown(value)} cannot be put into {shown(container)}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _fitted(context, builder, dtype, signature.args[1], arguments[1])

    return dtype(container, value), code


def _fitted(context: Any, builder: Any, dtype: Any, kind: Any, value: Any) -> Any:
    if isinstance(dtype, types.Boolean):
        kind, value = value_of(context, builder, kind, value)
        return context.cast(builder, value, kind, types.boolean)
    if isinstance(dtype, types.Float):  # an integer by way of a double, as NumPy does it
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
    if not is_number(value):
        raise refused(f"int() of {shown(value)}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        if is_int(kind):
            return as_int(context, builder, kind, arguments[0])
        return emit_truncated(context, builder, as_float(context, builder, kind, arguments[0]))

    return types.int64(value), code


@intrinsic
def to_float(_typing: Any, value: Any) -> Any:
    """float(value)."""
    if not is_number(value):
        raise refused(f"float() of {shown(value)}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return as_float(context, builder, signature.args[0], arguments[0])

    return types.float64(value), code


@intrinsic
def truth(_typing: Any, value: Any) -> Any:
    """bool(value) of a number, a list or a text: none and the empty text are false."""
    if isinstance(value, types.List):

        def some(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.compile_internal(builder, _has_any, signature, arguments)

        return types.boolean(value), some
    if not (is_number(value) or is_text(value)):
        raise refused(f"the truth of {shown(value)}: compare it, or its length")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, plain_value = value_of(context, builder, signature.args[0], arguments[0])
        if kind == TEXT:
            some = builder.icmp_signed("!=", plain_value, ir.Constant(I64, 0))
            return builder.and_(some, builder.icmp_signed("!=", plain_value, ir.Constant(I64, EMPTY)))
        return context.cast(builder, plain_value, kind, types.boolean)

    return types.boolean(value), code


def _has_any(values: Any) -> bool:
    return len(values) > 0


@implements(bool)
def _bool_of_text(a: Any) -> Any:
    return (lambda a: truth(a)) if isinstance(a, TextType) else None


@intrinsic
def text_code(_typing: Any, value: Any) -> Any:
    """Give the code of a text, which plain Python gives of no None."""
    if not is_text(value):
        raise refused(f"text_code() of {shown(value)}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = value_of(context, builder, signature.args[0], arguments[0])[1]
        give_up_if(context, builder, builder.icmp_signed("==", found, ir.Constant(I64, 0)))
        return found

    return types.int64(value), code


@intrinsic
def code_of_text(_typing: Any, value: Any) -> Any:
    """Give a text's code, 0 for none."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return value_of(context, builder, signature.args[0], arguments[0])[1]

    return types.int64(value), code


@intrinsic
def borrow(_typing: Any, array: Any) -> Any:
    """Give the same array without an owner to count at every use: the loop's caller owns it meanwhile."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _view(context, builder, signature, arguments[0])

    return array(array), code


@intrinsic
def borrow_texts(_typing: Any, array: Any) -> Any:
    """Give an array of codes as one of text."""
    texts = array.copy(dtype=TEXT)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _view(context, builder, signature, arguments[0])

    return texts(array), code


@intrinsic
def as_text(_typing: Any, value: Any) -> Any:
    """Give a code as text."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return as_int(context, builder, signature.args[0], arguments[0])

    return TEXT(plain(value)), code


def _view(context: Any, builder: Any, signature: Any, array: Any) -> Any:
    source = _builders.create_struct_proxy(signature.args[0])(context, builder, value=array)
    view = _builders.create_struct_proxy(signature.return_type)(context, builder)
    for part in ("nitems", "itemsize", "shape", "strides"):
        setattr(view, part, getattr(source, part))
    view.data = builder.bitcast(source.data, view.data.type)
    view.meminfo = _builders.get_null_value(view.meminfo.type)
    view.parent = _builders.get_null_value(view.parent.type)
    return view._getvalue()
