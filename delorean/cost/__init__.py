"""What experiments captured, stored, read and computed, by day, owner and name space, from existing records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from delorean.cost.captures import capture_entries
from delorean.cost.computations import run_entries
from delorean.cost.result import GROUPINGS, Cost, Grouping, summed
from delorean.experiment.record_files import BrokenRecord
from schemas.errors import ConfigError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage

_DAYS = 30


def cost(
    index: SnapshotIndex,
    storage: Storage,
    *,
    since: date | None = None,
    until: date | None = None,
    by: Sequence[Grouping] = ("owner", "experiment"),
    owner: str | None = None,
    namespace: str | None = None,
    experiment: str | None = None,
    owners: Mapping[str, str] | None = None,
) -> Cost:
    """Return what experiments cost on some days, UTC. No more than the records of these days is read.

    since, until: the first day and the last; None: the 30 days up to today
    by: what amounts are added up by
    owner, namespace, experiment: only theirs
    owners: experiment → owner, for captures, and for runs that record none

    A capture that several experiments use is divided among those that selected its contexts and need the service, by
    their numbers of contexts. Versions of global elements, and captures without a recorded selection, have no
    experiment.
    Feature sets that were generated without a run are not counted.

    Raises ConfigError for days in the wrong order or an unknown `by`.
    """
    until = until or datetime.now(UTC).date()
    since = since or until - timedelta(days=_DAYS - 1)
    if since > until:
        raise ConfigError.because(f"since is {since}, after until, {until}", "swap them")
    for name in by:
        if name not in GROUPINGS:
            raise ConfigError.unknown("grouping", name, GROUPINGS)
    broken: list[BrokenRecord] = []
    runs = list(run_entries(index, storage, since, until, owners or {}, broken))
    known = {**{entry.experiment: entry.owner for entry in runs if entry.owner}, **(owners or {})}
    entries = [
        entry
        for entry in (*capture_entries(index, since, until, known), *runs)
        if owner in (None, entry.owner)
        and namespace in (None, entry.namespace)
        and experiment in (None, entry.experiment)
    ]
    notes = (
        *(f"a run is not counted: {record.problem}" for record in broken),
        *(f"{record.name} is not counted: {record.problem}" for record in index.unreadable()),
    )
    return Cost(since, until, tuple(by), summed(entries, by), notes)
