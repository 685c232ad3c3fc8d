"""Label rows whose times lie before all state: usually times in a wrong unit."""

from __future__ import annotations

import logging
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from delorean.generation.generation_plan import GenerationPlan
from delorean.labels import TIME_COLUMN
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

_log = logging.getLogger(__name__)


def note_early_rows(plan: GenerationPlan, storage: Storage) -> GenerationPlan:
    """Add a note, and log it, if label rows have a time before the first capture and version of all that is read.

    The labels' times are read only if their earliest one is that early. A plan that leaves out older snapshots cannot
    tell; rows that are early need all of these, so the plan that serves them in the end leaves out none.
    """
    labels = plan.labels
    if not plan.elements or any(source.rest is not None for source in plan.services):
        return plan
    captures = [snapshot.captured_from for source in plan.services for snapshot in source.snapshots]
    starts = [time for time in captures if time is not None]
    starts += [version.valid_from for source in plan.globals for version in source.versions]
    first = min(starts, default=None)
    if first is not None and labels.earliest >= first:
        return plan
    early = labels.contexts
    if first is not None:
        limit = pa.scalar(first, plan.labels.schema.field(TIME_COLUMN).type)
        times = (read_parquet(storage, file, [TIME_COLUMN])[TIME_COLUMN] for file in labels.files)
        early = sum(pc.sum(pc.less(each, limit)).as_py() or 0 for each in times)
    span = f"{labels.earliest:%F %R} to {labels.latest:%F %R} UTC"
    note = f"{early:,} of {labels.contexts:,} label rows ({early / labels.contexts:.1%}) "
    if first is None:
        note += f"can see no state at all at their times, {span}"
    else:
        note += f"have a time before the first state that features are made from, {first:%F %R} UTC; times are {span}"
    note += " → check the labels' times and their unit"
    _log.warning("%s", note)
    return replace(plan, notes=(*plan.notes, note))
