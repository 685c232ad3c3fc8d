"""A moment one has travelled to, and views of the data as of then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from delorean.frames import Readable
from delorean.state.captures import CAPTURED_COLUMN, match_files
from delorean.state.matched import CaptureFile, Matched
from delorean.state.requirements import AsOf
from delorean.state.rules import FIRST_MOMENT
from delorean.state.versions import index_version_at
from delorean.time_travel.contexts import distinct_keys, read_choices
from schemas.display import MOST_ROWS, Code, Displayed, Facts, Headline, Note, Part, Table
from schemas.drawing import Share
from schemas.errors import DataKeyError, NotInIndexError, UnreadableRecordError
from schemas.services import Service
from schemas.tables import TIME
from snapshotter.global_elements import read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, to_micros
from snapshotter.selection.context_sets import read_context_set
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet

RUN_COLUMN = "run_id"
_KEYS_AT_ONCE = 16  # files whose keys are gathered before each is kept once, which bounds memory
_UNREAD = "Nothing is read yet: .to_polars(), .to_pandas(), .to_arrow() and .to_spark(spark) do."


@dataclass(frozen=True, repr=False)
class Moment(Displayed):
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
        return sorted({*self._services(), *self._globals()})

    def __getitem__(self, key: str) -> View:
        """View a data element. Raises DataKeyError for one that nobody captured up to here."""
        version = index_version_at(self.index, key, AsOf(), self.time)
        if version is not None:
            return GlobalView(self, version)
        services = self._services(key)
        if key in services:
            return ServiceView(self, services[key])
        known = [*self._services(), *self._globals()]
        if not known and not self.index.runs(1) and not self.index.global_elements():
            raise NotInIndexError.because(f"nothing is published in {self.index.uri} yet", "take a snapshot first")
        raise DataKeyError.unknown(f"data key at {self.time.isoformat()}", key, known)

    def _services(self, element: str | None = None) -> dict[str, Service]:
        """Give the services whose elements can be seen from here, as the last run of each declares it.

        element: look for this one alone
        """
        found: dict[str, Service] = {}
        declared = [service for service in self.index.elements() if element in (None, service.element.name)]
        for name, service in dict.fromkeys((each.element.name, each.name) for each in declared):
            seen = self.index.iterate_snapshots(service, FIRST_MOMENT, self.time)
            try:
                if sum(each.name == service for each in declared) > 1:  # the one published last by then counts
                    seen = iter(self.index.snapshots(service, FIRST_MOMENT, self.time))
                last = next((s.service for s in seen if s.service.element.name == name), None)
            except UnreadableRecordError:  # only whoever looks at this element needs to know
                last = next(each for each in declared if (each.element.name, each.name) == (name, service))
            if last is not None:
                found.setdefault(name, last)
        return found

    def _globals(self) -> list[str]:
        return [name for name in self.index.global_elements() if self._has_version(name)]

    def _has_version(self, element: str) -> bool:
        try:
            return self.index.global_version_at(element, self.time) is not None
        except UnreadableRecordError:  # it is there: only whoever looks at it needs to know
            return True

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    def _headline(self) -> Headline:
        seen = f"contexts of {self.experiment}" if self.experiment else "all contexts"
        older = "" if self.rule.max_age is None else f", nothing older than {self.rule.max_age}"
        return Headline("moment", self.time.isoformat(), f"{seen}{older}")

    def _parts(self) -> Iterator[Part]:
        views: dict[str, View] = {name: ServiceView(self, service) for name, service in self._services().items()}
        shown, unreadable = {name: view.shown() for name, view in views.items()}, []
        for name in self._globals():
            try:
                shown[name] = self[name].shown()
            except UnreadableRecordError as error:
                shown[name] = {"element": name, "served_by": "a record that cannot be read"}
                unreadable.append(Note(str(error), strong=True))
        yield Table([shown[name] for name in sorted(shown)], "what can be seen from here")
        yield from unreadable
        chosen = self.context_set
        yield Note("no contexts were chosen by then" if chosen is None else f"{chosen!r}")


class View(Displayed, Readable):
    """What any view can be turned into. Nothing is read before that."""

    @property
    @abstractmethod
    def confidence(self) -> float:
        """Real successes / contexts asked, where the data comes from."""

    @property
    @abstractmethod
    def coverage(self) -> float:
        """Share of the contexts that have data."""

    @abstractmethod
    def shown(self) -> dict[str, Any]:
        """Give what people want to know of it, as a table's row, without reading it."""


@dataclass(frozen=True, repr=False)
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

    def shown(self) -> dict[str, Any]:
        """Give what people want to know of it, as a table's row, without reading it."""
        newest = self._snapshots[-1] if self._snapshots else None
        return {
            "element": self.service.element.name,
            "by": ", ".join(variable.name for variable in self.service.key),
            "type": Code(str(self.service.element.type)),
            "served_by": f"{len(self._snapshots)} snapshots",
            "newest": newest and newest.captured_to,
            "confidence": Share(self.confidence, enough=0.9),
        }

    def _headline(self) -> Headline:
        element, moment = self.service.element, self.moment
        seen = f"for {moment.experiment}" if moment.experiment else "all contexts"
        return Headline(
            "",
            element.name,
            f"{element.type} as of {moment.time.isoformat()}, {seen}, "
            f"{len(self._snapshots)} snapshots, confidence {self.confidence:.3f}",
        )

    def _parts(self) -> Iterator[Part]:
        seen = self._snapshots[::-1]
        rows = [{"run": snapshot.run_id, **snapshot.shown()} for snapshot in seen[:MOST_ROWS]]
        wanted = ("run", "captured_from", "to", "asked", "answered", "confidence", "size")
        yield Table([{name: row[name] for name in wanted} for row in rows], "snapshots seen from here", of=len(seen))
        yield Note(_UNREAD)

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
    def _files(self) -> list[CaptureFile]:
        """Files of all snapshots, the earliest published first, so that of equal captures the later wins."""
        return [CaptureFile(snapshot, file) for snapshot in self._published for file in snapshot.files]

    def _wanted(self) -> pa.Table:
        """Keys to look up: the experiment's, or all that were ever captured."""
        if self.moment.experiment is not None:
            contexts = self._context_keys()
            assert contexts is not None  # for_experiment made sure
            return contexts
        names = [variable.name for variable in self.service.key]
        keys = pa.schema([(variable.name, variable.type) for variable in self.service.key]).empty_table()
        for start in range(0, len(self._files), _KEYS_AT_ONCE):
            files = self._files[start : start + _KEYS_AT_ONCE]
            parts = [read_parquet(self.moment.storage, file, names) for _, file in files]
            keys = distinct_keys(pa.concat_tables([keys, *parts]))
        return keys

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
        service, moment = self.service, self.moment
        times = pa.chunked_array([now])
        matched = match_files(keys, times, service.key, service.element, moment.rule, self._files, moment.storage)
        return matched, keys


@dataclass(frozen=True, repr=False)
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

    def shown(self) -> dict[str, Any]:
        """Give what people want to know of it, as a table's row, without reading it."""
        return {
            "element": self.version.element.name,
            "by": "nothing: one for all",
            "type": Code(str(self.version.element.type)),
            "served_by": f"version {self.version.version_id}",
            "newest": self.version.valid_from,
            "confidence": Share(self.confidence, enough=0.9),
        }

    def _headline(self) -> Headline:
        version = self.version
        return Headline(
            "",
            version.element.name,
            f"{version.element.type} as of {self.moment.time.isoformat()}, "
            f"version {version.version_id} valid from {version.valid_from.isoformat()}",
        )

    def _parts(self) -> Iterator[Part]:
        yield Facts({"rows": sum(file.rows for file in self.version.files), "published": self.version.published_at})
        yield Note(_UNREAD)
