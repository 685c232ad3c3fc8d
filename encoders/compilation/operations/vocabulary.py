"""Vocabularies in compiled code: parameters that are tuples of texts, searched by the hash index over their codes."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from numba.core import cgutils

from encoders.compilation.operations.comparison import OPERATIONS as COMPARISONS
from encoders.compilation.operations.comparison import missing
from encoders.compilation.operations.conversion import borrow, code_of_text
from encoders.compilation.operations.intrinsics import (
    emitted,
    implements,
    intrinsic,
    overload_target,
    refused,
    register_jitable,
    unary,
)
from encoders.compilation.operations.value_types import (
    CODES,
    VOCABULARY,
    VocabularyType,
    is_none,
    is_text,
    shown,
)
from encoders.compilation.probe import find

_builders: Any = cgutils
_Index = namedtuple("_Index", "values slots")  # Numba compiles these
_NAN = float("nan")
_find = register_jitable(find)
code_of = overload_target("code_of")


@intrinsic
def _joined(_typing: Any, codes: Any, slots: Any) -> Any:
    def emit(context: Any, builder: Any, _kinds: Any, values: Any) -> Any:
        joined = _builders.create_struct_proxy(VOCABULARY)(context, builder)
        joined.codes, joined.slots = values
        return joined._getvalue()

    return emitted(VOCABULARY, (codes, slots), emit)


@register_jitable
def as_vocabulary(codes: Any, slots: Any) -> Any:
    """Join the codes of texts and their index, without reference counting: the loop's caller owns them meanwhile."""
    return _joined(borrow(codes), borrow(slots))


def _part(name: str) -> Any:
    def part(_typing: Any, vocabulary: Any) -> Any:
        def emit(context: Any, builder: Any, kind: Any, value: Any) -> Any:
            return getattr(_builders.create_struct_proxy(kind)(context, builder, value=value), name)

        return unary(CODES, vocabulary, emit)

    return intrinsic(part)


_codes, _slots = _part("codes"), _part("slots")


@register_jitable
def _position(vocabulary: Any, text: Any) -> Any:
    return _find(_Index(_codes(vocabulary), _slots(vocabulary)), code_of_text(text))


@implements(code_of)
def _code_of(vocabulary: Any, text: Any) -> Any:
    if not isinstance(vocabulary, VocabularyType):
        raise refused(f"code_of() in {shown(vocabulary)}: give the encoder a parameter with a tuple of texts")
    if is_none(text):
        return lambda vocabulary, text: _NAN  # noqa: ARG005  # the arguments of code_of
    if not is_text(text):
        raise refused(f"code_of() {shown(text)}: a vocabulary has codes of texts")

    def position(vocabulary: Any, text: Any) -> Any:
        if missing(text):
            return _NAN
        found = _position(vocabulary, text)
        return float(found) if found >= 0 else float(len(_codes(vocabulary)))

    return position


@implements(len)
def _length(vocabulary: Any) -> Any:
    if isinstance(vocabulary, VocabularyType):
        return lambda vocabulary: len(_codes(vocabulary))
    return None


@implements(COMPARISONS["contains"])
def _contains(container: Any, a: Any) -> Any:
    if not isinstance(container, VocabularyType):
        return None
    if not is_text(a):
        raise refused(f"{shown(a)} in a vocabulary")
    return lambda container, a: (not missing(a)) and _position(container, a) >= 0


OPERATIONS: dict[str, Any] = {"code_of": code_of}
