"""The contexts of days: those of the newest context set up to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.labels import TIME_COLUMN
from delorean.time_travel import EXPERIMENT_COLUMN, STRATUM_COLUMN, read_chosen_contexts
from schemas.errors import DataKeyError
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextGroup, ContextSet, to_micros
from snapshotter.selection.context_sets import groups_of, read_contexts, united
from snapshotter.storage import Storage

STRATUM = "stratum"
GROUP_COLUMN = "__group"
_RECENT_SETS = 50  # searched for the names of experiments that an error suggests


@dataclass(frozen=True)
class DayContexts:
    """The contexts that are searched at each moment."""

    storage: Storage
    experiment: str | None
    by: str | None
    contexts_at_once: int
    sets: Mapping[datetime, Sequence[ContextSet]]

    def chunks(self) -> Iterator[pa.Table]:
        """Yield context variables, `time` and group, of several moments at once."""
        waiting: list[pa.Table] = []
        last: tuple[Sequence[ContextSet], pa.Table] | None = None
        for moment, context_sets in self.sets.items():
            if not context_sets:
                continue
            if last is None or last[0] != context_sets:
                last = (context_sets, united(self._read(group) for group in groups_of(context_sets, self.experiment)))
            now = pa.array(np.full(last[1].num_rows, to_micros(moment))).cast(TIME)
            waiting.append(last[1].append_column(TIME_COLUMN, now))
            if sum(table.num_rows for table in waiting) >= self.contexts_at_once:
                yield united(waiting)
                waiting = []
        if waiting:
            yield united(waiting)

    def _read(self, group: ContextGroup) -> pa.Table:
        if self.experiment is None and self.by != STRATUM:
            rows = read_contexts(group, self.storage, [variable.name for variable in group.key])
        else:
            rows = read_chosen_contexts(group, self.storage, self.experiment)
        return rows.append_column(GROUP_COLUMN, self._groups(rows))

    def _groups(self, rows: pa.Table) -> pa.ChunkedArray:
        if self.by is None:
            return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
        if self.by in rows.column_names:
            return pc.fill_null(rows[self.by].cast(pa.string()), "none")
        if self.by != STRATUM:  # contexts with another key
            return pa.chunked_array([pa.array(["none"] * rows.num_rows)])
        if self.experiment is not None:
            return rows[STRATUM_COLUMN]
        return pc.binary_join_element_wise(rows[EXPERIMENT_COLUMN], rows[STRATUM_COLUMN], "/")


def context_sets_by(index: SnapshotIndex, first: date, last: date, experiment: str | None) -> Sequence[ContextSet]:
    """Return the context sets that are the newest on one of the days, or those of an experiment, by date.

    Raises DataKeyError for an experiment that has none at all.
    """
    sets: list[ContextSet] = []
    for context_set in index.iterate_context_sets(last, experiment):
        if sets and sets[-1].date <= first and sets[-1].date != context_set.date:
            break
        sets.append(context_set)
    if experiment is not None and not sets and not index.context_sets(date.max, experiment, 1):
        recent = islice(index.iterate_context_sets(), _RECENT_SETS)
        existing = {name for context_set in recent for name in context_set.experiments}
        raise DataKeyError.unknown("experiment with a context set", experiment, existing)
    return sets[::-1]


def newest_up_to(sets: Sequence[ContextSet], day: date, experiment: str | None) -> Sequence[ContextSet]:
    """Return the newest context set of an experiment up to a day; None: all of the newest date. sets: by date."""
    newest = next((context_set for context_set in reversed(sets) if context_set.date <= day), None)
    if newest is None or experiment is not None:
        return [newest] if newest else []
    return [context_set for context_set in sets if context_set.date == newest.date]


def check_group(by: str | None, sets: Sequence[ContextSet]) -> None:
    """Raise DataKeyError for what no context has. by: see `day_coverage`."""
    variables = {variable.name for group in groups_of(sets) for variable in group.key}
    if by is not None and by != STRATUM and by not in variables:
        raise DataKeyError.unknown("variable to group contexts by", by, {*variables, STRATUM})
