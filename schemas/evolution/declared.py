"""Checks what a data element declares about its type's past: the defaults of fields, and their older names.

Both are mappings whose keys are paths of fields: the names from the outermost struct on, joined by dots. Lists do not
appear in a path: in `list<struct<minutes: double>>` the path of the field is `minutes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from schemas.errors import DataKeyError
from schemas.nested_types import is_list
from schemas.nulls import is_text, may_be_null


def checked_defaults(name: str, type: pa.DataType, defaults: Mapping[str, Any]) -> dict[str, Any]:  # noqa: A002
    """Return the defaults of an element's fields as plain JSON values, by path, sorted.

    What a missing field is anyway, null or an empty list, is left out. Raises DataKeyError for an unknown path and for
    a value that does not fit its field.

    >>> checked_defaults("history", pa.struct({"device": pa.string(), "plays": pa.int32()}), {"plays": 1})
    {'plays': 1}
    """
    fields = dict(_fields(name, type, defaults, "default"))
    plain = {path: _plain_default(name, path, fields[path], value) for path, value in sorted(defaults.items())}
    return {path: value for path, value in plain.items() if value is not None}


def checked_aliases(
    name: str,
    type: pa.DataType,  # noqa: A002
    aliases: Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """Return the older names of an element's fields, by path, sorted.

    Raises DataKeyError for an unknown path, and for an alias that is a field itself or belongs to two fields.
    """
    fields = dict(_fields(name, type, aliases, "alias"))
    taken: dict[tuple[str, str], str] = {}  # (the struct's path, alias) → path of the field
    for path, names in sorted(aliases.items()):
        if isinstance(names, str) or not all(isinstance(each, str) and each for each in names):
            raise DataKeyError.because(
                f"'{name}': the aliases of '{path}' are {names!r}, expected a list of older names", 'write ["…"]'
            )
        parent = path[: -len(fields[path].name)]
        for alias in names:
            claimed_by = f"{parent}{alias}" if f"{parent}{alias}" in all_paths(type) else taken.get((parent, alias))
            if claimed_by is not None:
                raise DataKeyError.because(
                    f"'{name}': the alias '{alias}' of '{path}' is taken: it is {_claim(claimed_by, parent, alias)}",
                    "an older name belongs to one field, and to none of the present names",
                )
            taken[parent, alias] = path
    return {path: tuple(names) for path, names in sorted(aliases.items()) if names}


def default_array(type: pa.DataType, default: Any, length: int) -> pa.Array:  # noqa: A002
    """Return an array that repeats a default as `checked_defaults` returns it."""
    return pa.repeat(_scalar(type, default), length)


def all_paths(type: pa.DataType) -> list[str]:  # noqa: A002
    """Return the paths of all fields of a type."""
    return [path for path, _ in _walk(type, "")]


def _claim(claimed_by: str, parent: str, alias: str) -> str:
    return "a field of the same struct" if claimed_by == f"{parent}{alias}" else f"an alias of '{claimed_by}'"


def _walk(type: pa.DataType, parent: str) -> Iterator[tuple[str, pa.Field]]:  # noqa: A002
    while is_list(type):
        type = type.value_type  # noqa: A001
    if pa.types.is_struct(type):
        for field in type:
            yield f"{parent}{field.name}", field
            yield from _walk(field.type, f"{parent}{field.name}.")


def _fields(
    name: str,
    type: pa.DataType,  # noqa: A002
    declared: Mapping[str, Any],
    what: str,
) -> Iterator[tuple[str, pa.Field]]:
    """Yield the declared paths with their fields. Raises DataKeyError for unknown and ambiguous paths."""
    existing = list(_walk(type, ""))
    for path in declared:
        matching = [field for other, field in existing if other == path]
        if not matching:
            raise DataKeyError.unknown(f"field of '{name}' with {what}", str(path), [other for other, _ in existing])
        if len(matching) > 1:  # names may contain dots
            raise DataKeyError.because(f"'{name}' has several fields with the path '{path}'", "rename one of them")
        yield path, matching[0]


def _plain_default(element: str, path: str, field: pa.Field, value: Any) -> Any:
    """Return a default as a JSON value; None for what a missing field is anyway."""
    type, name = field.type, f"{element}.{path}"  # noqa: A001
    if value is None and may_be_null(type) and field.nullable:
        return None
    if is_list(type):
        if isinstance(value, list | tuple) and not value:
            return None
        raise DataKeyError.because(f"the default of '{name}' is {value!r}, but a missing list is empty", "remove it")
    if pa.types.is_struct(type) and type.num_fields:
        raise DataKeyError.because(
            f"'{name}' is a struct, which has no default of its own",
            f'declare those of its fields, each by its path: "{path}.{type.field(0).name}" = …',
        )
    expected, convert = _conversion(type)
    try:
        plain = convert(value)
        _scalar(type, plain)
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise DataKeyError.because(
            f"the default of '{name}' is {value!r}, which does not fit {type}", f"expected {expected}"
        ) from error
    return plain


def _conversion(type: pa.DataType) -> tuple[str, Callable[[Any], Any]]:  # noqa: A002
    """Return what a default must be, and the function that converts it to JSON or raises ValueError."""
    of = pa.types
    if of.is_boolean(type):
        return "true or false", lambda value: _of_type(value, bool)
    if of.is_integer(type):
        return f"an integer of {type}", lambda value: _of_type(value, int)
    if of.is_floating(type):
        return "a finite number", _finite
    if is_text(type):
        return "text", lambda value: _of_type(value, str)
    if of.is_timestamp(type):
        return 'a time with a zone, such as "2026-01-31T12:00:00Z"', _time
    if of.is_date32(type):
        return 'a date, such as "2026-01-31"', _date
    return "no default: fields of this type cannot have one", _refuse


def _refuse(value: Any) -> Any:
    raise ValueError(value)


def _of_type(value: Any, expected: type) -> Any:
    return value if type(value) is expected else _refuse(value)


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _time(value: Any) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(value)
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _date(value: Any) -> str:
    day = date.fromisoformat(value) if isinstance(value, str) else value
    return day.isoformat() if type(day) is date else str(_refuse(value))


def _scalar(type: pa.DataType, plain: Any) -> pa.Scalar:  # noqa: A002
    """Return a default as a value of its type. Raises ValueError, or what Arrow raises, for one that does not fit."""
    if pa.types.is_timestamp(type):
        moment = datetime.fromisoformat(plain)
        scalar = pa.scalar(moment, pa.timestamp("us", "UTC")).cast(type)
    elif pa.types.is_date32(type):
        scalar = pa.scalar(date.fromisoformat(plain), type)
    else:
        scalar = pa.scalar(plain, pa.string()).cast(type) if is_text(type) else pa.scalar(plain, type)
    if pa.types.is_floating(type) and not math.isfinite(scalar.as_py()):
        raise ValueError(plain)
    return scalar
