"""The contexts of time travel: the experiments that chose them, and their distinct keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DataKeyError
from schemas.services import Service
from snapshotter.records import ContextGroup, ContextSet
from snapshotter.selection.context_sets import groups_of, read_contexts, united
from snapshotter.storage import Storage

EXPERIMENT_COLUMN = "__experiment"  # no context variable is named so
STRATUM_COLUMN = "__stratum"


def read_chosen_contexts(group: ContextGroup, storage: Storage, experiment: str | None = None) -> pa.Table:
    """Return a row for each context and experiment that chose it, with the context's key and the stratum.

    experiment: only those that this one chose
    """
    contexts = read_contexts(group, storage)
    chosen_by = contexts["experiments"].combine_chunks()
    choices = chosen_by.flatten()
    names = pc.struct_field(choices, "experiment")
    rows = contexts.drop_columns("experiments").take(pc.list_parent_indices(chosen_by))
    rows = rows.append_column(EXPERIMENT_COLUMN, names)
    rows = rows.append_column(STRATUM_COLUMN, pc.struct_field(choices, "stratum"))
    return rows if experiment is None else rows.filter(pc.equal(names, experiment))


def distinct_keys(keys: pa.Table) -> pa.Table:
    """Return each key once, sorted; keys with a null never match anything and are left out."""
    keys = keys.drop_null()
    return keys.group_by(keys.column_names).aggregate([]).sort_by([(name, "ascending") for name in keys.column_names])


@dataclass(frozen=True)
class ServiceContexts:
    """The contexts that have the variables of a service's key. experiment: only its contexts; None: all."""

    service: Service
    context_sets: Sequence[ContextSet]
    storage: Storage
    experiment: str | None

    def groups(self) -> list[ContextGroup]:
        """Return the groups of such contexts."""
        names = {variable.name for variable in self.service.key}
        groups = groups_of(self.context_sets, self.experiment)
        return [group for group in groups if names <= {variable.name for variable in group.key}]

    def required_groups(self) -> list[ContextGroup]:
        """Return the groups. Raises DataKeyError if an experiment is named whose contexts lack the variables."""
        having = self.groups()
        if not having:
            key = ", ".join(variable.name for variable in self.service.key)
            raise DataKeyError.because(
                f"service '{self.service.name}' is asked by {key}, which contexts of experiment '{self.experiment}' "
                "lack",
                "leave for_experiment out, to see what was captured for others",
            )
        return having

    def keys(self) -> pa.Table | None:
        """Read the distinct keys of the service; None if no context has its variables."""
        names, having = [variable.name for variable in self.service.key], self.groups()
        if not having:
            return None
        if self.experiment is None:
            return distinct_keys(united(read_contexts(group, self.storage, names) for group in having))
        chosen = (read_chosen_contexts(group, self.storage, self.experiment) for group in having)
        return distinct_keys(united(contexts.select(names) for contexts in chosen))
