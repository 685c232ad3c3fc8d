"""Which contexts a service is asked for: those with its variables, chosen by experiments that need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from schemas.services import Service
from schemas.tables import contexts_schema
from snapshotter.records import ContextGroup, DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_CHOSEN_BY = "experiments"


def lacks(group: ContextGroup, service: Service) -> list[str]:
    """Return the variables of a service's key that a group's contexts lack."""
    names = {variable.name for variable in group.key}
    return [variable.name for variable in service.key if variable.name not in names]


def experiments_asking(group: ContextGroup, service: Service) -> list[str]:
    """Return the experiments of a group whose contexts a service is asked for."""
    if lacks(group, service):
        return []
    return [experiment.id for experiment in group.experiments if experiment.needs(service.name)]


def asks_column(service: str) -> str:
    """Return the name of the column of contexts that says whether a service is asked for them."""
    return f"_asks_{service}"  # no data key's name starts with _


def shared_key(groups: Iterable[ContextGroup], services: Sequence[Service]) -> list[DataKey]:
    """Return the variables of these services' keys, each with a type that fits all contexts that are asked for.

    Raises DataKeyError, naming the experiments, where there is no such type.
    """
    key: dict[str, tuple[DataKey, str]] = {}
    for group in groups:
        asking = {
            variable.name: ids[0]
            for service in services
            if (ids := experiments_asking(group, service))
            for variable in service.key
        }
        for variable in group.key:
            if variable.name in asking:
                key[variable.name] = _wider(key.get(variable.name), (variable, asking[variable.name]))
    return [variable for variable, _ in key.values()]


def _wider(one: tuple[DataKey, str] | None, other: tuple[DataKey, str]) -> tuple[DataKey, str]:
    if one is None or fits(one[0].type, other[0].type):
        return other
    if not fits(other[0].type, one[0].type):
        raise DataKeyError.because(
            f"variable '{one[0].name}' is {one[0].type} in the contexts of experiment '{one[1]}',"
            f" {other[0].type} in those of '{other[1]}'",
            "cast the column in one of their queries",
        )
    return one


def fits(available: pa.DataType, required: pa.DataType) -> bool:
    """Whether values of a type can be a variable of another: the same type, or a narrower signed integer."""
    signed = pa.types.is_signed_integer(available) and pa.types.is_signed_integer(required)
    return available == required or bool(signed and available.bit_width <= required.bit_width)


@dataclass(frozen=True)
class AskedContexts:
    """The contexts of one group that services are asked for: plain data that travels with Spark's tasks.

    columns: those of the services' keys that the group has
    asked_by: service → the experiments whose contexts it is asked for; None: all of the group
    """

    files: tuple[DataFile, ...]
    columns: tuple[str, ...]
    asked_by: Mapping[str, tuple[str, ...] | None]

    @classmethod
    def of(cls, group: ContextGroup, services: Sequence[Service]) -> AskedContexts | None:
        """Return what a group's contexts are asked for, None if that is nothing."""
        asked_by: dict[str, tuple[str, ...] | None] = {}
        for service in services:
            ids = experiments_asking(group, service)
            asked_by[service.name] = None if len(ids) == len(group.experiments) and ids else tuple(ids)
        if not any(ids is None or ids for ids in asked_by.values()):
            return None
        names = {variable.name for service in services if asked_by[service.name] != () for variable in service.key}
        return cls(group.files, tuple(each.name for each in group.key if each.name in names), asked_by)

    def read(self, storage: Storage, file: DataFile, schema: pa.Schema) -> pa.Table:
        """Read the contexts of a file that any service is asked for, with a column for each that says whether it is.

        schema: of contexts of all groups; variables that this one lacks are null
        """
        partial = any(self.asked_by.values())
        table = read_parquet(storage, file, [*self.columns, *([_CHOSEN_BY] if partial else [])])
        chosen_by = table[_CHOSEN_BY].combine_chunks() if partial else None
        columns = [
            table[field.name].cast(field.type) if field.name in self.columns else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
        contexts = pa.table(columns, schema=schema)
        asked = [_asked(ids, table.num_rows, chosen_by) for ids in self.asked_by.values()]
        for name, rows in zip(self.asked_by, asked, strict=True):
            contexts = contexts.append_column(pa.field(asks_column(name), pa.bool_()), rows)
        if None in self.asked_by.values():
            return contexts
        any_asked = asked[0]
        for rows in asked[1:]:
            any_asked = pc.or_(any_asked, rows)
        return contexts.filter(any_asked)


def contexts_with_asks(key: Iterable[DataKey], services: Sequence[Service]) -> pa.Schema:
    """Return the schema of `AskedContexts.read` for a key of all groups."""
    asks = [pa.field(asks_column(service.name), pa.bool_()) for service in services]
    return pa.schema([*contexts_schema(key), *asks])


def _asked(ids: tuple[str, ...] | None, rows: int, chosen_by: pa.ListArray | None) -> pa.Array:
    """Return for each row whether any of these experiments chose it."""
    if ids is None or not ids or chosen_by is None:
        return pa.repeat(pa.scalar(ids is None), rows)
    choices = chosen_by.flatten()
    of_these = pc.is_in(pc.struct_field(choices, "experiment"), pa.array(ids, pa.string()))
    parents = pc.list_parent_indices(chosen_by).filter(of_these)
    return pc.is_in(pa.array(np.arange(rows), parents.type), parents)
