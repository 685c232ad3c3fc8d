"""Comparisons as Python defines them. Texts can be equal or not, and have no order."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types

from encoders.compilation.operations.intrinsics import (
    delegate,
    emitted,
    implements,
    intrinsic,
    intrinsic_of,
    overload_target,
    refused,
    unary,
)
from encoders.compilation.operations.value_types import (
    I64,
    TEXT,
    TextType,
    VocabularyType,
    as_float,
    as_int,
    give_up_if,
    is_array,
    is_float,
    is_inexact,
    is_int,
    is_none,
    is_number,
    is_text,
    shown,
    value_of,
)

BIT = ir.IntType(1)
_SYMBOLS = {"equal": "==", "unequal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}
_FUNCTIONS = {
    "equal": operator.eq,
    "unequal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}
_NUMBERS = (types.int64, types.float64, types.float32)


def _emit(name: str, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    """Compare two scalars whose types `_comparable` accepts."""
    if any(is_none(kind) for kind in kinds):
        return _emit_none(name, context, builder, kinds, values)
    if is_text(kinds[0]):
        codes = [value_of(context, builder, *pair)[1] for pair in zip(kinds, values, strict=True)]
        return builder.icmp_signed(_SYMBOLS[name], *codes)
    pairs = list(zip(kinds, values, strict=True))
    if is_int(kinds[0]) and is_int(kinds[1]):
        return builder.icmp_signed(_SYMBOLS[name], *(as_int(context, builder, *pair) for pair in pairs))
    for kind, value in pairs:
        if is_int(kind):  # Python compares exactly, a float holds at most 53 bits
            give_up_if(context, builder, is_inexact(builder, as_int(context, builder, kind, value)))
    floats = [as_float(context, builder, *pair) for pair in pairs]
    compare = builder.fcmp_unordered if name == "unequal" else builder.fcmp_ordered
    return compare(_SYMBOLS[name], *floats)


def _emit_none(name: str, context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    missing = ir.Constant(BIT, 1)
    for kind, value in zip(kinds, values, strict=True):
        if is_none(kind):
            continue
        if isinstance(kind, types.Optional):
            valid = context.make_helper(builder, kind, value=value).valid
            missing = builder.icmp_signed("==", valid, ir.Constant(valid.type, 0))
        elif is_text(kind):
            missing = builder.icmp_signed("==", value, ir.Constant(I64, 0))
        else:
            missing = ir.Constant(BIT, 0)
    return missing if name == "equal" else builder.not_(missing)


def _comparable(a: Any, b: Any, equality: bool) -> bool:
    if is_number(a) and is_number(b):
        return True
    if is_none(a) or is_none(b):
        return equality
    return equality and is_text(a) and is_text(b)


def _same_pairs(a: Any, b: Any, equality: bool) -> bool:
    """Whether two tuples hold pairs of equal types, which Numba compares as Python does."""
    if not (isinstance(a, types.BaseTuple) and isinstance(b, types.BaseTuple)):
        return False
    pairs = list(zip(map(types.unliteral, a.types), map(types.unliteral, b.types), strict=False))
    return all(one == other and (one in _NUMBERS or (equality and one == TEXT)) for one, other in pairs)


def _delegated(a: Any, b: Any, equality: bool) -> bool:
    arrays = [kind for kind in (a, b) if is_array(kind)]
    if arrays:
        numbers = [kind.dtype if is_array(kind) else types.unliteral(kind) for kind in (a, b)]
        return all(kind in _NUMBERS for kind in numbers) and len(set(numbers)) == 1
    return _same_pairs(a, b, equality)


def _comparison(name: str) -> Any:
    equality = name in ("equal", "unequal")

    def comparison(typing: Any, a: Any, b: Any) -> Any:
        if _delegated(a, b, equality):
            return delegate(typing, _FUNCTIONS[name], (a, b))
        if not _comparable(a, b, equality):
            hint = "" if not (is_text(a) or is_text(b)) else ": compare a text with a text"
            hint = hint if equality else hint and ": text is only equal or not"
            raise refused(f"{shown(a)} {_SYMBOLS[name]} {shown(b)}{hint}")

        def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            return context.cast(builder, _emit(name, context, builder, kinds, values), types.boolean, types.boolean)

        return emitted(types.boolean, (a, b), emit)

    return intrinsic_of(name, 2, comparison)


def _chain(first: str, second: str) -> Any:
    """A < b <= c, where c is computed even if a < b is false: if computing it raises, Python decides."""

    def chain(_typing: Any, a: Any, b: Any, c: Any) -> Any:
        for name, one, other in ((first, a, b), (second, b, c)):
            equality = name in ("equal", "unequal")
            if not _comparable(one, other, equality):
                raise refused(f"{shown(one)} {_SYMBOLS[name]} {shown(other)}")

        def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            results = [
                _emit(name, context, builder, kinds[place : place + 2], values[place : place + 2])
                for place, name in enumerate((first, second))
            ]
            return builder.and_(*results)

        return emitted(types.boolean, (a, b, c), emit)

    return intrinsic_of(f"{first}_then_{second}", 3, chain)


def _none_test(name: str, comparison: str) -> Any:
    def test(_typing: Any, a: Any) -> Any:
        def emit(context: Any, builder: Any, kind: Any, value: Any) -> Any:
            return _emit_none(comparison, context, builder, (kind, types.none), (value, None))

        return unary(types.boolean, a, emit)

    return intrinsic_of(name, 1, test)


OPERATIONS: dict[str, Any] = {
    **{name: _comparison(name) for name in _SYMBOLS},
    **{f"{first}_then_{second}": _chain(first, second) for first in _SYMBOLS for second in _SYMBOLS},
    "missing": _none_test("missing", "equal"),
    "present": _none_test("present", "unequal"),
    "contains": overload_target("contains"),
}
equal, unequal, less, greater = (OPERATIONS[name] for name in ("equal", "unequal", "less", "greater"))
missing = OPERATIONS["missing"]


@intrinsic
def in_tuple(_typing: Any, a: Any, tuple_type: Any) -> Any:
    """`a in (…)`. NaN gives up, because Python compares objects by identity first."""
    for kind in tuple_type.types:
        if not _comparable(a, kind, equality=True):
            raise refused(f"{shown(a)} in a tuple that holds {shown(kind)}")

    def emit(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        needle, member_kinds = kinds[0], kinds[1].types
        if is_float(needle):
            value = as_float(context, builder, needle, values[0])
            give_up_if(context, builder, builder.fcmp_unordered("uno", value, value))
        result = ir.Constant(BIT, 0)
        for place, kind in enumerate(member_kinds):
            member = builder.extract_value(values[1], place)
            result = builder.or_(result, _emit("equal", context, builder, (needle, kind), (values[0], member)))
        return result

    return emitted(types.boolean, (a, tuple_type), emit)


@implements(OPERATIONS["contains"])
def _contains(container: Any, a: Any) -> Any:
    if isinstance(container, VocabularyType):
        return None  # see `vocabulary`
    if isinstance(container, types.BaseTuple):
        return lambda container, a: in_tuple(a, container)
    if is_array(container) or isinstance(container, types.List):
        if not _comparable(a, container.dtype, equality=True):
            raise refused(f"{shown(a)} in {shown(container)}")

        def search(container: Any, a: Any) -> Any:
            result = False
            for i in range(len(container)):
                result = result or in_tuple(a, (container[i],))
            return result

        return search
    raise refused(f"in {shown(container)}: write a tuple or a list")


@implements(operator.eq)
def _text_equal(a: Any, b: Any) -> Any:
    if isinstance(a, TextType) and isinstance(b, TextType):
        return lambda a, b: equal(a, b)
    return None


@implements(operator.ne)
def _text_unequal(a: Any, b: Any) -> Any:
    if isinstance(a, TextType) and isinstance(b, TextType):
        return lambda a, b: unequal(a, b)
    return None
