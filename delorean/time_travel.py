"""Travel in time: the data as of any past moment, as the online services stood then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delorean.generation.matching import CAPTURED_COLUMN, Matched, match_files
from delorean.generation.rules import AsOf
from delorean.labels import TIME_COLUMN, LabelColumns
from delorean.readable import Readable
from encoders.encoder import FeatureEncoder
from schemas.errors import ConfigError, DataKeyError, NaiveTimeError, NotInIndexError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.context_sets import read_context_set
from snapshotter.global_elements import read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, DataFile, GlobalVersion, ServiceSnapshot, to_micros
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

if TYPE_CHECKING:
    pass

RUN_COLUMN = "run_id"
EXPERIMENT_COLUMN = "__experiment"  # no context variable is named so
STRATUM_COLUMN = "__stratum"


@dataclass(frozen=True)
class TimeMachine:
    """Gives the data as of any past moment.

    `TimeMachine(index, storage).at(t)["viewing_history"].to_polars()`
    """

    index: SnapshotIndex
    storage: Storage

    def __post_init__(self) -> None:
        """Refuse what is not open."""
        if not isinstance(self.index, SnapshotIndex):
            raise ConfigError.mistaken("index", self.index, "an open index", "open_index(project.index)")
        if not isinstance(self.storage, Storage):
            raise ConfigError.mistaken("storage", self.storage, "an open storage", "open_storage(project.storage)")

    def at(self, moment: datetime | str, max_age: timedelta | None = None) -> Moment:
        """Go to a moment; nothing captured after it can be seen from there.

        moment: also as text, `2026-01-31T12:00:00Z`
        max_age: how old what one sees may be; None: any age

        Raises ConfigError for what is no time, NaiveTimeError for a time without a zone.
        """
        try:
            moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        except ValueError as error:
            raise ConfigError.because(f"'{moment}' is no time", "write one such as 2026-01-31T12:00:00Z") from error
        if not isinstance(moment, datetime):
            raise ConfigError.mistaken("moment", moment, "a datetime", "write one such as 2026-01-31T12:00:00Z")
        if moment.tzinfo is None:
            raise NaiveTimeError.because(f"time {moment.isoformat()} has no zone", "give it one: tzinfo=UTC")
        return Moment(self.index, self.storage, moment.astimezone(UTC), AsOf(max_age=max_age))

    def features(
        self,
        rows: Any,
        encoders: FeatureEncoder | Sequence[FeatureEncoder],
        *,
        items: Sequence[str],
        context: Sequence[str] | None = None,
        time: str = TIME_COLUMN,
        rules: Mapping[str, AsOf] | None = None,
    ) -> pa.Table:
        """Encode rows from the state as of their own times, however long ago: one call, in this process, no trace.

        rows: a frame of contexts, times and items, one row for each item or lists of them; labels need not be there
        encoders: also those defined in the cell above
        items, context: columns of the items' and the context's variables; None: all the others are the context
        rules: element's name → as-of rule

        Gives one row for each context and time: items and features as lists, and what served each element when.
        """
        from delorean.generation.preview import preview_features  # encoding needs more than looking does

        items = [items] if isinstance(items, str) else items
        columns = LabelColumns(tuple(items), None if context is None else tuple(context), time)
        return preview_features(rows, encoders, self.index, self.storage, columns, rules)


@dataclass(frozen=True)
class Moment:
    """A moment one has travelled to: `moment["viewing_history"]` is a view of that element."""

    index: SnapshotIndex
    storage: Storage
    time: datetime
    rule: AsOf
    experiment: str | None = None

    def for_experiment(self, experiment: str) -> Moment:
        """See only the contexts that an experiment chose, in the newest context set of this moment.

        Raises NotInIndexError if it had not chosen any by then.
        """
        moment = replace(self, experiment=experiment)
        if moment.context_set is None:
            known = sorted(
                {name for chosen in self.index.context_sets(self.time.date()) for name in chosen.experiments}
            )
            raise NotInIndexError.because(
                f"experiment '{experiment}' has no context set up to {self.time.date()}",
                f"select contexts first; those that have: {', '.join(known) or 'none'}",
            )
        return moment

    @cached_property
    def context_set(self) -> ContextSet | None:
        """The newest context set of this moment, of the experiment if there is one."""
        found = self.index.context_sets(self.time.date(), self.experiment)
        return found[0] if found else None

    def keys(self) -> list[str]:
        """Name the data elements that can be seen from here."""
        services = {s.service.element.name for run in self.index.runs() for s in run.services if self._visible(s)}
        versions = (name for name in self.index.global_elements() if self.index.global_versions(name, self.time))
        return sorted({*services, *versions})

    def __getitem__(self, key: str) -> View:
        """View a data element. Raises DataKeyError for one that nobody captured up to here."""
        versions = self.index.global_versions(key, self.time)
        if versions:
            return GlobalView(self, versions[0])
        for run in self.index.runs():
            for snapshot in run.services:
                if snapshot.service.element.name == key and self._visible(snapshot):
                    return ServiceView(self, snapshot.service)
        if not self.index.runs() and not self.index.global_elements():
            raise NotInIndexError.because(f"nothing is published in {self.index.uri} yet", "take a snapshot first")
        raise DataKeyError.unknown(f"data key at {self.time.isoformat()}", key, self.keys())

    def _visible(self, snapshot: ServiceSnapshot) -> bool:
        return snapshot.captured_from is not None and snapshot.captured_from <= self.time


class View(Readable):
    """What any view can be turned into. Nothing is read before that."""

    @property
    @abstractmethod
    def confidence(self) -> float:
        """Real successes / contexts asked, where the data comes from."""

    @property
    @abstractmethod
    def coverage(self) -> float:
        """Share of the contexts that have data."""


@dataclass(frozen=True)
class ServiceView(View):
    """A service's element as of a moment: for each key the row that the as-of rule picks."""

    moment: Moment
    service: Service

    def to_arrow(self) -> pa.Table:
        """Read the service's key, captured_at, the run that captured it and the element, for keys that have one."""
        matched, keys = self._match(self._wanted())
        found = pa.array(~matched.absent)
        runs = pa.array([snapshot.run_id for snapshot, _ in self._files], pa.string())
        table = keys.append_column(CAPTURED_COLUMN, matched.captured_times())
        table = table.append_column(RUN_COLUMN, runs.take(pa.array(matched.file, mask=matched.absent)))
        values = matched.element.values.take(pa.array(matched.element.rows, mask=matched.absent))
        return table.append_column(self.service.element.name, values).filter(found)

    @property
    def confidence(self) -> float:
        """Real successes / asked, of the newest snapshot of this moment; 0 without any."""
        return self._snapshots[-1].confidence if self._snapshots else 0.0

    @property
    def coverage(self) -> float:
        """Share of the context set's distinct keys that have an element; 0 without a context set."""
        contexts = self._context_keys()
        if contexts is None or contexts.num_rows == 0:
            return 0.0
        matched, _ = self._match(contexts)
        return 1.0 - float(matched.absent.mean())

    def __repr__(self) -> str:
        """Say what it is a view of, without reading it."""
        element, moment = self.service.element, self.moment
        seen = f"for {moment.experiment}" if moment.experiment else "all contexts"
        return (
            f"{element.name}: {element.type} as of {moment.time.isoformat()}, {seen}, "
            f"{len(self._snapshots)} snapshots, confidence {self.confidence:.3f}"
        )

    @cached_property
    def _published(self) -> list[ServiceSnapshot]:
        """What may be seen, the earliest published first."""
        first, last = self.moment.rule.window(self.moment.time, self.moment.time)
        visible = self.moment.index.snapshots(self.service.name, first, last)
        return [snapshot for snapshot in reversed(visible) if snapshot.service == self.service]

    @property
    def _snapshots(self) -> list[ServiceSnapshot]:
        """What may be seen, by the time of capture and then of publishing."""
        return sorted(self._published, key=lambda snapshot: snapshot.captured_to or self.moment.time)

    @cached_property
    def _files(self) -> list[tuple[ServiceSnapshot, DataFile]]:
        """Files of all snapshots, the earliest published first, so that of equal captures the later wins."""
        return [(snapshot, file) for snapshot in self._published for file in snapshot.files]

    def _wanted(self) -> pa.Table:
        """Keys to look up: the experiment's, or all that were ever captured."""
        if self.moment.experiment is not None:
            contexts = self._context_keys()
            assert contexts is not None  # for_experiment made sure
            return contexts
        names = [variable.name for variable in self.service.key]
        parts = [read_parquet(self.moment.storage, file, names) for _, file in self._files]
        schema = pa.schema([(variable.name, variable.type) for variable in self.service.key])
        return distinct_keys(pa.concat_tables([schema.empty_table(), *parts]))

    def _context_keys(self) -> pa.Table | None:
        """Distinct keys of this service in the context set, of the experiment's contexts if there is one."""
        context_set = self.moment.context_set
        if context_set is None:
            return None
        names = [variable.name for variable in self.service.key]
        if self.moment.experiment is None:
            return distinct_keys(read_context_set(context_set, self.moment.storage, names))
        return distinct_keys(read_choices(context_set, self.moment.storage, self.moment.experiment).select(names))

    def _match(self, keys: pa.Table) -> tuple[Matched, pa.Table]:
        now = pa.array(np.full(keys.num_rows, to_micros(self.moment.time))).cast(TIME)
        rows = keys.append_column(TIME_COLUMN, now)
        files = [file for _, file in self._files]
        service = self.service
        matched = match_files(rows, service.key, service.element, self.moment.rule, files, self.moment.storage)
        return matched, keys


@dataclass(frozen=True)
class GlobalView(View):
    """A global element as of a moment: the rows of the version that was valid."""

    moment: Moment
    version: GlobalVersion

    def to_arrow(self) -> pa.Table:
        """Read the version's rows, one column for each field."""
        return read_global_version(self.version, self.moment.storage)

    @property
    def confidence(self) -> float:
        """A version is whole or not there."""
        return 1.0

    @property
    def coverage(self) -> float:
        """A global element belongs to every context."""
        return 1.0

    def __repr__(self) -> str:
        """Say what it is a view of, without reading it."""
        version = self.version
        return (
            f"{version.element.name}: {version.element.type} as of {self.moment.time.isoformat()}, "
            f"version {version.version_id} valid from {version.valid_from.isoformat()}"
        )


def read_choices(context_set: ContextSet, storage: Storage, experiment: str | None = None) -> pa.Table:
    """Read who chose which context: for each context and experiment a row with its key and the stratum.

    experiment: only what this one chose
    """
    contexts = read_context_set(context_set, storage)
    chosen_by = contexts["experiments"].combine_chunks()
    choices = chosen_by.flatten()
    names = pc.struct_field(choices, "experiment")
    rows = contexts.drop_columns("experiments").take(pc.list_parent_indices(chosen_by))
    rows = rows.append_column(EXPERIMENT_COLUMN, names)
    rows = rows.append_column(STRATUM_COLUMN, pc.struct_field(choices, "stratum"))
    return rows if experiment is None else rows.filter(pc.equal(names, experiment))


def distinct_keys(keys: pa.Table) -> pa.Table:
    """Give each key once, sorted; keys with a null never match anything and are left out."""
    keys = keys.drop_null()
    return keys.group_by(keys.column_names).aggregate([]).sort_by([(name, "ascending") for name in keys.column_names])
