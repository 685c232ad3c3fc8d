"""The types of values in compiled encoders, including text, and how they become machine values.

An operation *gives up* by raising: the context is then computed by the plain Python function.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_constant

from schemas.hashing import text_code

I64, F64 = ir.IntType(64), ir.DoubleType()
SMALLEST = -(2**63)
EMPTY = text_code("")
EXACT = 2**53  # integers up to here are floats without loss
GAVE_UP = "a number leaves the range in which machine code computes what Python computes"
_builders: Any = cgutils  # Numba ships no types
_extending: Any = extending
register_model, typeof_impl = _extending.register_model, _extending.typeof_impl


class Text:
    """A text as compiled code sees it: its 64-bit code, 0 for None."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __bool__(self) -> bool:
        """Whether it is a non-empty text; Numba calls this to prune branches on constants."""
        return self.code not in (0, EMPTY)


class TextType(types.Type):
    """The type of a `Text`. It has no order, length or characters, so no operation can read them from its code."""

    def __init__(self) -> None:
        super().__init__(name="text")


TEXT = TextType()


class VocabularyType(types.Type):
    """The type of a vocabulary: the codes of its texts, and the slots of the hash index over them."""

    def __init__(self) -> None:
        super().__init__(name="vocabulary")


VOCABULARY = VocabularyType()
CODES = types.Array(types.int64, 1, "C", readonly=True)


@register_model(TextType)
class _TextModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, I64)


@register_model(VocabularyType)
class _VocabularyModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("codes", CODES), ("slots", CODES)])


@typeof_impl.register(Text)
def _type_of_text(_value: Any, _purpose: Any) -> Any:
    return TEXT


@lower_constant(TextType)
def _constant_text(_context: Any, _builder: Any, _kind: Any, value: Text) -> Any:
    return ir.Constant(I64, value.code)


def plain(kind: Any) -> Any:
    """Give the type of a value without literal and optional wrappers."""
    kind = types.unliteral(kind)
    return types.unliteral(kind.type) if isinstance(kind, types.Optional) else kind


def is_int(kind: Any) -> bool:
    """Whether it is an integer or a boolean, which is one in Python."""
    return isinstance(plain(kind), types.Integer | types.Boolean)


def is_float(kind: Any) -> bool:
    """Whether it is a float of any width."""
    return isinstance(plain(kind), types.Float)


def is_number(kind: Any) -> bool:
    """Whether it is an integer, a boolean or a float."""
    return is_int(kind) or is_float(kind)


def is_text(kind: Any) -> bool:
    """Whether it is text."""
    return isinstance(plain(kind), TextType)


def is_none(kind: Any) -> bool:
    """Whether it can only be None."""
    return isinstance(kind, types.NoneType)


def is_array(kind: Any) -> bool:
    """Whether it is an array."""
    return isinstance(kind, types.Array)


def shown(kind: Any) -> str:
    """Name a type as messages do."""
    names = {types.int64: "an integer", types.float64: "a float", types.boolean: "a boolean", TEXT: "text"}
    names[VOCABULARY] = "a vocabulary"
    kind = types.unliteral(kind)
    if is_array(kind):
        return f"an array of {names.get(kind.dtype, str(kind.dtype)).removeprefix('an ').removeprefix('a ')}s"
    return names.get(kind, {"none": "None", "unicode_type": "text that is built here"}.get(str(kind), str(kind)))


def value_of(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """Unwrap a value that may be None, and its type; give up where it is None."""
    kind = types.unliteral(kind) if not isinstance(kind, types.Literal) else kind
    if isinstance(kind, types.Literal):
        value = context.cast(builder, value, kind, plain(kind))
    if isinstance(kind, types.Optional):
        pair = _builders.create_struct_proxy(kind)(context, builder, value=value)
        give_up_if(context, builder, builder.not_(_builders.as_bool_bit(builder, pair.valid)))
        value = pair.data
    return plain(kind), value


def as_int(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Convert an integer or boolean to int64; give up where an unsigned 64-bit one does not fit."""
    kind, value = value_of(context, builder, kind, value)
    if isinstance(kind, types.Integer) and not kind.signed and kind.bitwidth == 64:
        give_up_if(context, builder, builder.icmp_signed("<", value, ir.Constant(I64, 0)))
    return context.cast(builder, value, kind, types.int64)


def as_float(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Convert a number to float64, rounding integers as Python does."""
    kind, value = value_of(context, builder, kind, value)
    return context.cast(builder, value, kind, types.float64)


def give_up_if(context: Any, builder: Any, condition: Any) -> None:
    """Give up where a condition holds: plain Python computes this context."""
    with builder.if_then(condition, likely=False):
        context.call_conv.return_user_exc(builder, OverflowError, (GAVE_UP,))


def is_inexact(builder: Any, integer: Any) -> Any:
    """Whether an int64 is too large for a float to hold exactly."""
    shifted = builder.add(integer, ir.Constant(I64, EXACT))
    return builder.icmp_unsigned(">", shifted, ir.Constant(I64, 2 * EXACT))
