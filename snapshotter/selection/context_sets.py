"""Finds and reads context sets, without Spark, which only their selection needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import takewhile

import pyarrow as pa

from schemas.data_keys import DataKey
from schemas.errors import DataKeyError
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextGroup, ContextSet
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_SELECTED_BY = pa.list_(
    pa.struct([("experiment", pa.string()), ("stratum", pa.string()), ("probability", pa.float64())])
)


@dataclass(frozen=True)
class ExperimentContexts:
    """The contexts of an experiment on a date. group: its files also have contexts of other experiments."""

    date: date
    context_set_id: str
    group: ContextGroup


def contexts_of(
    index: SnapshotIndex, experiment: str, earliest: date = date.min, latest: date = date.max
) -> Iterator[ExperimentContexts]:
    """Yield what an experiment selected for each date in [earliest, latest], the newest first."""
    for selected in takewhile(lambda one: one.date >= earliest, index.iterate_context_sets(latest, experiment)):
        group = selected.group_of(experiment)
        if group is not None:
            yield ExperimentContexts(selected.date, selected.context_set_id, group)


def newest_context_sets(index: SnapshotIndex, latest: date, experiment: str | None = None) -> list[ContextSet]:
    """Return the newest context set up to a date that has an experiment's contexts; None: all of the newest date."""
    newest = index.context_sets(latest, experiment, limit=1)
    return list(newest if experiment is not None or not newest else index.context_sets_of(newest[0].date))


def groups_of(context_sets: Iterable[ContextSet], experiment: str | None = None) -> list[ContextGroup]:
    """Return the groups of context sets; of an experiment only those with its contexts."""
    groups = [group for context_set in context_sets for group in context_set.groups]
    return [group for group in groups if experiment in (None, *(selected.id for selected in group.experiments))]


def read_contexts(group: ContextGroup, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a group's contexts: their key, and `experiments` that selected them, in which stratum and how probably."""
    schema = context_set_schema(group.key)
    empty = schema.empty_table().select(list(columns or schema.names))
    return pa.concat_tables([empty, *(read_parquet(storage, file, columns) for file in group.files)])


def read_context_set(context_set: ContextSet, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the contexts of all groups; variables that a group lacks are null.

    columns: of groups that have them all; None: all

    Raises DataKeyError for columns that no group has, or that have types in two groups which do not fit.
    """
    names = list(columns or ())
    having = [group for group in context_set.groups if {*names} <= {*context_set_schema(group.key).names}]
    if not having:
        existing = {name for group in context_set.groups for name in context_set_schema(group.key).names}
        unknown = next((name for name in names if name not in existing), ", ".join(names))
        raise DataKeyError.unknown(f"column of context set {context_set.context_set_id}", unknown, existing)
    return united(read_contexts(group, storage, columns) for group in having)


def united(tables: Iterable[pa.Table]) -> pa.Table:
    """Concatenate contexts of different keys; variables that a table lacks are null, narrower integers are widened.

    Raises DataKeyError for variables whose types do not fit.
    """
    every = list(tables)
    try:
        return pa.concat_tables(every, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise DataKeyError.because(
            f"contexts of different keys cannot be read together: {error}",
            "name an experiment, or cast the column in the experiments' queries",
        ) from error


def context_set_schema(key: Sequence[DataKey]) -> pa.Schema:
    """Return the columns of the files of a group with a key."""
    return pa.schema([*((variable.name, variable.type) for variable in key), ("experiments", _SELECTED_BY)])
