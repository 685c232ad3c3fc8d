"""Converts arrays of a stored type to a wanted one with Arrow's kernels, or names the field and rule that forbid it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataKeyError
from schemas.evolution.declared import default_array
from schemas.nulls import is_text, may_be_null

Convert = Callable[[pa.Array], pa.Array]
Default = Callable[[int], pa.Array]  # length → array
_UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True)
class Adapter:
    """Converts arrays of the stored type to the wanted type; what does not change is not copied.

    name: of the element, for messages
    defaulted: paths of the outermost fields that the stored type lacks, so that every value has their default
    """

    name: str
    stored: pa.DataType
    wanted: pa.DataType
    defaulted: tuple[str, ...] = ()
    convert: Convert | None = field(default=None, repr=False, compare=False)

    def __call__(self, array: pa.Array) -> pa.Array:
        """Convert an array. Raises DataKeyError for a value beyond the wanted type's range, such as a far time."""
        if self.convert is None:
            return array
        try:
            return self.convert(array)
        except pa.ArrowException as error:
            raise DataKeyError.because(
                f"a value of '{self.name}', stored as {self.stored}, does not fit {self.wanted}: {error}"
            ) from error


def adapt(
    stored: pa.DataType,
    wanted: pa.DataType,
    defaults: Mapping[str, Any] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
    name: str = "value",
) -> Adapter:
    """Return the adapter from a stored type to a wanted one.

    Two steps give what one does where the type between has every field that the other two share, and both steps declare
    the same defaults and aliases.

    defaults, aliases: of the wanted type's fields, as `checked_defaults` and `checked_aliases` return them
    name: of the element, for messages

    >>> adapter = adapt(pa.struct({"id": pa.int32()}), pa.struct({"id": pa.int64(), "device": pa.string()}))
    >>> adapter(pa.array([{"id": 7}])).to_pylist(), adapter.defaulted
    ([{'id': 7, 'device': None}], ('device',))

    Raises DataKeyError that names both types, the path of the field and the rule, where the types do not allow it.
    """
    rules = _Rules(name, stored, wanted, defaults or {}, aliases or {})
    convert = rules.value(stored, wanted, "")
    return Adapter(name, stored, wanted, tuple(rules.defaulted), convert)


def default_of(field: pa.Field, path: str, defaults: Mapping[str, Any]) -> pa.Array:
    """Return an array with the one value of a field in data that lacks it.

    path: of the field; defaults: as `checked_defaults` returns them

    >>> default_of(pa.field("plays", pa.int32()), "plays", {"plays": 1}).to_pylist()
    [1]
    """
    return _Rules(path, field.type, field.type, defaults, {}).default(field, f"{path}.")(1)


class _Rules:
    """Finds the conversions of a type's parts; None stands for no change."""

    def __init__(
        self,
        name: str,
        stored: pa.DataType,
        wanted: pa.DataType,
        defaults: Mapping[str, Any],
        aliases: Mapping[str, Sequence[str]],
    ) -> None:
        self.name, self.types, self.defaults, self.aliases = name, (stored, wanted), defaults, aliases
        self.defaulted: list[str] = []

    def value(self, stored: pa.DataType, wanted: pa.DataType, path: str) -> Convert | None:
        """Return the conversion of values at a path: names joined by dots, each followed by one; "" at the root."""
        if stored == wanted:
            return None
        of = pa.types
        if of.is_struct(stored) and of.is_struct(wanted):
            return self.struct(stored, wanted, path)
        if _has_offsets(stored) and _has_offsets(wanted):
            self.refuse_nulls(stored.value_field, wanted.value_field, path)
            return partial(_convert_list, wanted, self.value(stored.value_type, wanted.value_type, path))
        if is_text(stored) and is_text(wanted):
            return partial(_cast, wanted)
        rule = _forbidden(stored, wanted)
        if rule is not None:
            raise self.refused(path, f"is {stored}, expected {wanted}: {rule}")
        return partial(_cast, wanted)

    def struct(self, stored: pa.DataType, wanted: pa.DataType, path: str) -> Convert:
        """Return the conversion of structs, field by field."""
        if not wanted.num_fields:
            raise self.refused(path, f"is {stored}, expected a struct without fields, which cannot be read")
        parts: list[tuple[int, Convert | None] | Default] = []
        for each in wanted:
            below = f"{path}{each.name}."
            source = self.source_of(each, stored, path)
            if source is None:
                self.defaulted.append(below[:-1])
                parts.append(self.default(each, below))
            else:
                self.refuse_nulls(stored.field(source), each, below)
                parts.append((source, self.value(stored.field(source).type, each.type, below)))
        return partial(_convert_struct, wanted, parts)

    def source_of(self, wanted: pa.Field, stored: pa.DataType, path: str) -> int | None:
        """Return the position of the stored field that a wanted one is read from: by its name, else by an older one."""
        names = [each.name for each in stored]
        if names.count(wanted.name) > 1:
            raise self.refused(f"{path}{wanted.name}.", "exists twice in the stored type")
        if wanted.name in names:
            return names.index(wanted.name)
        older = [name for name in self.aliases.get(f"{path}{wanted.name}", ()) if name in names]
        if len(older) > 1:
            raise self.refused(
                f"{path}{wanted.name}.", f"is stored under several of its older names: {', '.join(older)}"
            )
        return names.index(older[0]) if older else None

    def default(self, wanted: pa.Field, path: str) -> Default:
        """Return what makes the default of a field that is missing in the stored type."""
        type, declared = wanted.type, self.defaults.get(path[:-1])  # noqa: A001
        if declared is not None:
            return partial(default_array, type, declared)
        if may_be_null(type) and wanted.nullable:
            return partial(_nulls, type)
        if _has_offsets(type):
            return partial(_empty_lists, type)
        if pa.types.is_struct(type) and type.num_fields:
            return partial(_default_struct, type, [self.default(each, f"{path}{each.name}.") for each in type])
        path = path[:-1]
        raise self.refused(
            f"{path}.",
            f"is missing, and a {type} is never null: it needs a declared default",
            f'declare one, defaults = {{ "{path}" = … }}, or',
        )

    def refuse_nulls(self, stored: pa.Field, wanted: pa.Field, path: str) -> None:
        """Raise DataKeyError where stored values may be null and wanted ones may not."""
        if stored.nullable and not wanted.nullable and may_be_null(stored.type):
            raise self.refused(path, f"may be null, expected a {wanted.type} that is not null")

    def refused(self, path: str, problem: str, instead: str = "") -> DataKeyError:
        """Build the error for a path whose change no rule allows. instead: what else the user can do."""
        stored, wanted = self.types
        place = f"'{self.name}.{path[:-1]}'" if path else f"'{self.name}'"
        return DataKeyError.because(
            f"'{self.name}' has {stored}, which cannot be read as {wanted}: {place} {problem}",
            f"{instead} declare a new element '{next_name(self.name)}'".strip(),
        )


def next_name(name: str) -> str:
    """Return how the successor of an element is declared.

    >>> next_name("viewing_history"), next_name("viewing_history_2")
    ('viewing_history@2', 'viewing_history@3')
    """
    numbered = re.fullmatch(r"(.+)_([1-9][0-9]*)", name)
    return f"{numbered[1]}@{int(numbered[2]) + 1}" if numbered else f"{name}@2"


def _forbidden(stored: pa.DataType, wanted: pa.DataType) -> str | None:
    """Return the rule that forbids a change of scalars; None if all values of the stored type stay exact."""
    of = pa.types
    if of.is_integer(stored) and of.is_integer(wanted):
        more = wanted.bit_width > stored.bit_width
        same_sign = of.is_signed_integer(stored) == of.is_signed_integer(wanted)
        fits = more and (same_sign or of.is_signed_integer(wanted))
        return None if fits else "an integer is only read as a wider one that holds its whole range"
    if of.is_floating(stored) and of.is_floating(wanted):
        return None if wanted.bit_width > stored.bit_width else "a float is only read as a wider one"
    if of.is_integer(stored) and of.is_floating(wanted):
        exact = stored.bit_width <= 32 and of.is_float64(wanted)
        return None if exact else "an integer of up to 32 bits is read as a double, no other as a float"
    for is_kind in (of.is_timestamp, of.is_time, of.is_duration):
        if is_kind(stored) and is_kind(wanted):
            zoned = not of.is_timestamp(stored) or (stored.tz is None) == (wanted.tz is None)
            finer = _UNITS.index(wanted.unit) >= _UNITS.index(stored.unit)
            return None if finer and zoned else "a time is only read in a finer unit"
    if of.is_date32(stored) and of.is_date64(wanted):
        return None
    return "no rule allows this change"


def _has_offsets(type: pa.DataType) -> bool:  # noqa: A002
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type))


def _cast(wanted: pa.DataType, array: pa.Array) -> pa.Array:
    return array.cast(wanted)


def _convert_struct(
    wanted: pa.DataType, parts: Sequence[tuple[int, Convert | None] | Default], array: pa.Array
) -> pa.Array:
    # flatten gives the fields of null structs as null, so that what is stored below them is not converted.
    children = array.flatten() if array.null_count else [array.field(i) for i in range(array.type.num_fields)]
    converted = []
    for part in parts:
        if isinstance(part, tuple):
            source, convert = part
            converted.append(children[source] if convert is None else convert(children[source]))
        else:
            converted.append(part(len(array)))
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(converted, fields=list(wanted), mask=mask)


def _convert_list(wanted: pa.DataType, convert: Convert | None, array: pa.Array) -> pa.Array:
    """Convert the values of lists. Only those that a slice contains are converted."""
    large = pa.types.is_large_list(wanted)
    make = pa.LargeListArray if large else pa.ListArray
    if not len(array):
        return pa.array([], wanted)
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    values = array.values.slice(first, last - first)
    if first or array.offset:
        offsets = pc.subtract(offsets, pa.scalar(first, offsets.type))
    mask = array.is_null() if array.null_count else None
    converted = values if convert is None else convert(values)
    return make.from_arrays(offsets.cast(pa.int64() if large else pa.int32()), converted, type=wanted, mask=mask)


def _nulls(type: pa.DataType, length: int) -> pa.Array:  # noqa: A002
    return pa.nulls(length, type)


def _empty_lists(type: pa.DataType, length: int) -> pa.Array:  # noqa: A002
    large = pa.types.is_large_list(type)
    offsets = pa.repeat(pa.scalar(0, pa.int64() if large else pa.int32()), length + 1)
    make = pa.LargeListArray if large else pa.ListArray
    return make.from_arrays(offsets, pa.array([], type.value_type), type=type)


def _default_struct(type: pa.DataType, defaults: Sequence[Default], length: int) -> pa.Array:  # noqa: A002
    return pa.StructArray.from_arrays([default(length) for default in defaults], fields=list(type))
