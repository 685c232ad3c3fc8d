"""Data keys: the typed names of context variables, item types and data elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import pyarrow as pa

from schemas.arrow_types import parse_type
from schemas.errors import DataKeyError, NaiveTimeError
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
    """

    name: str
    kind: Kind
    type: pa.DataType

    def __post_init__(self) -> None:
        """Reject names that encoders cannot read, and times without a time zone."""
        if not self.name.isidentifier() or self.name.startswith("_"):
            raise DataKeyError.because(
                f"data key '{self.name}' is not a name an encoder can read",
                "use letters, digits and _, no digit first",
            )
        refuse_naive_times(self.name, self.type)

    def to_json(self) -> dict[str, str]:
        """Write the key as text fields, its type as `type_to_json` does."""
        return {"name": self.name, "kind": self.kind.value, **type_to_json(self.type)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read fields that `to_json` wrote."""
        return cls(fields["name"], Kind(fields["kind"]), type_from_json(fields))


def context_variable(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002  # the field's own name
    """Declare a variable of the context: `context_variable("profile_id", "int64")`."""
    return DataKey(name, Kind.CONTEXT, _as_type(type))


def item(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002
    """Declare a variable of the item that is scored: `item("video_id", "int64")`."""
    return DataKey(name, Kind.ITEM, _as_type(type))


def service_element(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002
    """Declare the state that an online service answers with.

    >>> service_element("my_list", "list<struct<video_id: int64, added_at: timestamp[us, UTC]>>").type
    ListType(list<item: struct<video_id: int64, added_at: timestamp[us, tz=UTC]>>)
    """
    return DataKey(name, Kind.SERVICE_ELEMENT, _as_type(type))


def global_element(name: str, type: str | pa.DataType) -> DataKey:  # noqa: A002
    """Declare versioned state that depends on no context: its type is one row's struct, first the row's key.

    >>> global_element("videos", "struct<video_id: int64, title: string>").kind
    <Kind.GLOBAL_ELEMENT: 'global_element'>
    """
    key = DataKey(name, Kind.GLOBAL_ELEMENT, _as_type(type))
    if not pa.types.is_struct(key.type) or key.type.num_fields == 0:
        raise DataKeyError.because(
            f"global element '{name}' has type {key.type}, expected a struct: one row, its first field the row's key"
        )
    return key


def by_name(keys: Iterable[DataKey]) -> dict[str, DataKey]:
    """Map names to keys. Raises DataKeyError if a name is declared with two meanings."""
    named: dict[str, DataKey] = {}
    for key in keys:
        other = named.setdefault(key.name, key)
        if other != key:
            raise DataKeyError.because(
                f"data key '{key.name}' is declared twice: {other.kind} {other.type} and {key.kind} {key.type}",
                "give one of them another name",
            )
    return named


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
