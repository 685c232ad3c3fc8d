"""The building blocks of operations: intrinsics, overloads, and the error for what compiled code cannot do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import extending
from numba.core import errors
from numba.core.imputils import impl_ret_borrowed

from encoders.compilation.operations.value_types import is_number, shown

_extending: Any = extending
intrinsic, register_jitable = _extending.intrinsic, _extending.register_jitable


def refused(problem: str) -> Exception:
    """Build the error for what compiled code cannot do; `explain_compile_error` reads the problem in the braces."""
    error: Exception = errors.TypingError(f"{{{{{problem}}}}}")
    return error


def intrinsic_of(name: str, arity: int, choose: Callable[..., Any]) -> Any:
    """Make an intrinsic of one to three arguments. choose: (typing, *types) → signature and code.

    Numba calls intrinsics by their arguments' names, so each number of arguments needs a function of its own.
    """

    def one(typing: Any, a: Any) -> Any:
        return choose(typing, a)

    def two(typing: Any, a: Any, b: Any) -> Any:
        return choose(typing, a, b)

    def three(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return choose(typing, a, b, c)

    chosen: Any = (one, two, three)[arity - 1]
    chosen.__name__ = name
    return intrinsic(chosen)


def unary(result: Any, kind: Any, emit: Callable[..., Any]) -> tuple[Any, Any]:
    """Give the signature and code of an operation on one value. emit: (context, builder, kind, value) → result."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(context, builder, signature.args[0], arguments[0])

    return result(kind), code


def emitted(result: Any, kinds: Any, emit: Callable[..., Any]) -> tuple[Any, Any]:
    """Give the signature and code of an operation. emit: (context, builder, kinds, values) → result."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(context, builder, signature.args, arguments)

    return result(*kinds), code


def same_value(kinds: Any, place: int = 0) -> tuple[Any, Any]:
    """Give the signature and code of an operation that returns one of its arguments unchanged."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[place])

    return kinds[place](*kinds), code


def require_numbers(operation: str, *kinds: Any) -> None:
    """Refuse an operation, such as `math.exp()`, unless all its operands are numbers."""
    if not all(is_number(kind) for kind in kinds):
        raise refused(f"{operation} of {' and '.join(shown(kind) for kind in kinds)}")


def overload_target(name: str) -> Any:
    """Make a function that exists only to be overloaded in compiled code."""

    def target(*_arguments: Any) -> Any:
        raise NotImplementedError

    target.__name__ = name
    return target


def delegate(typing: Any, function: Any, kinds: Any) -> tuple[Any, Any]:
    """Give the signature and code of Numba's own implementation of a function. Raises if it has none."""
    function_type = typing.resolve_value_type(function)
    signature = function_type.get_call_type(typing, kinds, {})

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return context.get_function(function_type, signature)(builder, arguments)

    return signature.return_type(*kinds), code


def implements(function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that chooses an implementation by the arguments' types.

    Annotations are removed, because Numba compares signatures including annotations.
    """

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        choose.__annotations__ = {}

        @functools.wraps(choose)
        def chosen(*kinds: Any, **named: Any) -> Any:
            implementation = choose(*kinds, **named)
            if implementation is not None:
                implementation.__annotations__ = {}
            return implementation

        _extending.overload(function)(chosen)
        return choose

    return register
