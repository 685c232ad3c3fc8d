"""Data keys: the typed names of context variables, item types and data elements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self

import pyarrow as pa

from schemas.arrow_types import parse_type
from schemas.errors import DataKeyError, NaiveTimeError
from schemas.evolution import Adapter, adapt, checked_aliases, checked_defaults, next_name
from schemas.type_records import type_from_json, type_to_json


class Kind(StrEnum):
    """What a data key names."""

    CONTEXT = "context"
    ITEM = "item"
    SERVICE_ELEMENT = "service_element"
    GLOBAL_ELEMENT = "global_element"


@dataclass(frozen=True)
class DataKey:
    """The typed name of a context variable, an item variable or a data element.

    The same type applies to the service's answer, the Parquet column, the data map and the encoder's argument.

    name: a Python identifier, because encoders read it as an attribute
    kind: what the key names
    type: an Arrow type, nested types included; times in it must be `timestamp[us, UTC]`
    defaults: path of a field → its value in data that is older than the field; plain JSON values
    aliases: path of a field → the names that it had in older data
    resolved: whether its type was taken from a project's declarations, see `encoders.data_key`
    """

    name: str
    kind: Kind
    type: pa.DataType
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    resolved: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Reject names that encoders cannot read, times without a time zone, and defaults and aliases that misfit."""
        if not self.name.isidentifier() or self.name.startswith("_"):
            raise DataKeyError.because(
                f"data key '{self.name}' is not a name an encoder can read",
                "use letters, digits and _, no digit first",
            )
        refuse_naive_times(self.name, self.type)
        if self.defaults:
            object.__setattr__(self, "defaults", checked_defaults(self.name, self.type, self.defaults))
        if self.aliases:
            object.__setattr__(self, "aliases", checked_aliases(self.name, self.type, self.aliases))

    def adapter(self, stored: pa.DataType) -> Adapter:
        """Return what converts values stored under another type to this key's.

        Raises DataKeyError that names both types, the field and the rule, where no rule allows the change.
        """
        adapter = self._adapter_or_problem(stored)
        if isinstance(adapter, str):
            raise DataKeyError(adapter)
        return adapter

    def reads(self, stored: pa.DataType) -> bool:
        """Return whether values stored under a type can be read as this key's."""
        return isinstance(self._adapter_or_problem(stored), Adapter)

    def _adapter_or_problem(self, stored: pa.DataType) -> Adapter | str:
        if stored == self.type:  # hashing a type takes longer than comparing two
            return Adapter(self.name, stored, self.type)
        return _adapter_or_problem(self, stored, repr((self.defaults, self.aliases)))

    def to_json(self) -> dict[str, Any]:
        """Write the key as JSON fields, its type as `type_to_json` does; defaults and aliases if there are any."""
        declared = {"defaults": dict(self.defaults), "aliases": {path: list(a) for path, a in self.aliases.items()}}
        present = {name: fields for name, fields in declared.items() if fields}
        return {"name": self.name, "kind": self.kind.value, **type_to_json(self.type), **present}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read fields that `to_json` wrote."""
        declared = (fields.get("defaults", {}), fields.get("aliases", {}))
        return cls(fields["name"], Kind(fields["kind"]), type_from_json(fields), *declared)


def context_variable(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002  # the field's own name
    """Declare a variable of the context: `context_variable("profile_id", "int64")`."""
    return DataKey(name, Kind.CONTEXT, _as_type(type))


def item(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002
    """Declare a variable of the item that is scored: `item("video_id", "int64")`."""
    return DataKey(name, Kind.ITEM, _as_type(type))


def service_element(
    name: str,
    type: str | pa.DataType,  # noqa: A002
    *,
    defaults: Mapping[str, Any] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> DataKey:
    """Declare the state that an online service answers with.

    name: `viewing_history@2` declares the second element of that name, which encoders read as `viewing_history_2`
    defaults: path of a field → its value in data captured before the field existed; without one, floats and texts are
        null there and lists are empty
    aliases: path of a field → its names in data captured before it was renamed

    >>> service_element("my_list", "list<struct<video_id: int64, added_at: timestamp[us, UTC]>>").type
    ListType(list<item: struct<video_id: int64, added_at: timestamp[us, tz=UTC]>>)
    >>> service_element("my_list@2", "list<struct<video_id: int64, plays: int32>>", defaults={"plays": 0}).name
    'my_list_2'

    Raises DataKeyError for a default that does not fit its field, an unknown path, and an alias that is taken.
    """
    return DataKey(element_name(name), Kind.SERVICE_ELEMENT, _as_type(type), defaults or {}, aliases or {})


def global_element(
    name: str,
    type: str | pa.DataType,  # noqa: A002
    *,
    defaults: Mapping[str, Any] | None = None,
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> DataKey:
    """Declare versioned state that depends on no context: its type is one row's struct, first the row's key.

    defaults, aliases: as for `service_element`, for versions published under another type

    >>> global_element("videos", "struct<video_id: int64, title: string>").kind
    <Kind.GLOBAL_ELEMENT: 'global_element'>
    """
    key = DataKey(element_name(name), Kind.GLOBAL_ELEMENT, _as_type(type), defaults or {}, aliases or {})
    if not pa.types.is_struct(key.type) or key.type.num_fields == 0:
        raise DataKeyError.because(
            f"global element '{name}' has type {key.type}, expected a struct: one row, its first field the row's key"
        )
    return key


def element_name(name: str) -> str:
    """Return the name by which encoders read an element: `viewing_history_2` for `viewing_history@2`.

    Raises DataKeyError for what follows the @ unless it is an integer from 2 on.
    """
    base, at, number = name.partition("@")
    if not at:
        return name
    if not re.fullmatch(r"[2-9]|[1-9][0-9]+", number):
        raise DataKeyError.because(f"data key '{name}' has '{number}' after the @", f"write {base}@2")
    return f"{base}_{number}"


@lru_cache(maxsize=4096)
def _adapter_or_problem(key: DataKey, stored: pa.DataType, _declared: str) -> Adapter | str:
    """Return the adapter of a key, or why there is none: both are asked for once for each file.

    _declared: distinguishes defaults that Python considers equal, 0.0 and -0.0
    """
    try:
        return _adapter(key, stored)
    except DataKeyError as error:
        return str(error)


def _adapter(key: DataKey, stored: pa.DataType) -> Adapter:
    adapter = adapt(stored, key.type, key.defaults, key.aliases, key.name)
    if key.kind is Kind.GLOBAL_ELEMENT:
        first, names = key.type.field(0).name, [field.name for field in stored]
        source = first if first in names else next(a for a in (*key.aliases.get(first, ()), "") if a in (*names, ""))
        if source != names[0]:
            raise DataKeyError.because(
                f"global element '{key.name}' has {stored}, which cannot be read as {key.type}: the key of its rows is "
                f"'{names[0]}', expected '{first}'",
                f"declare a new element '{next_name(key.name)}'",
            )
    return adapter


def by_name(keys: Iterable[DataKey]) -> dict[str, DataKey]:
    """Map names to keys. Raises DataKeyError if a name is declared with two meanings."""
    named: dict[str, DataKey] = {}
    for key in keys:
        other = named.setdefault(key.name, key)
        if other != key:
            raise DataKeyError.because(
                f"data key '{key.name}' is declared twice: {_declaration(other)} and {_declaration(key)}",
                "give one of them another name",
            )
    return named


def _declaration(key: DataKey) -> str:
    declared = [f"{name} {dict(fields)}" for name in ("defaults", "aliases") if (fields := getattr(key, name))]
    return ", ".join([f"{key.kind} {key.type}", *declared])


def refuse_naive_times(name: str, type: pa.DataType) -> None:  # noqa: A002
    """Raise NaiveTimeError if a time anywhere in the type has no zone."""
    if pa.types.is_timestamp(type):
        if type.tz is None:
            raise NaiveTimeError.because(
                f"'{name}' is {type}: a time without a zone does not identify an instant", "use timestamp[us, UTC]"
            )
    else:
        for i in range(type.num_fields):
            child = type.field(i)
            refuse_naive_times(f"{name}.{child.name}", child.type)


def _as_type(type: str | pa.DataType) -> pa.DataType:  # noqa: A002
    return parse_type(type) if isinstance(type, str) else type
