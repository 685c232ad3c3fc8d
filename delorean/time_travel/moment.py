"""A moment in the past, and views of the data as of then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from delorean.frames import Readable, lazy_frame, require_spark
from delorean.state.matches import CaptureFile, ElementMatch
from delorean.state.rules import FIRST_MOMENT, AsOf
from delorean.state.snapshot_pages import first_page
from delorean.state.sources import ServiceSource
from delorean.state.versions import published_version_at
from delorean.time_travel.bucket_view import (
    Buckets,
    BucketView,
    captured_keys,
    match_at,
    state_rows,
    view_schema,
)
from delorean.time_travel.contexts import ServiceContexts
from schemas.errors import DataKeyError, NotInIndexError, UnreadableRecordError
from schemas.plain_text import plain_text
from schemas.services import Service
from snapshotter.global_elements import read_global_version
from snapshotter.index import SnapshotIndex
from snapshotter.records import ContextSet, GlobalVersion, ServiceSnapshot, to_micros
from snapshotter.selection.context_sets import newest_context_sets
from snapshotter.storage import Storage, open_storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_RECENT_SETS = 50  # searched for the names of experiments that an error suggests


@dataclass(frozen=True, repr=False)
class Moment:
    """A moment in the past: `moment["viewing_history"]` is a view of that element."""

    index: SnapshotIndex
    storage: Storage
    time: datetime
    rule: AsOf
    experiment: str | None = None

    def for_experiment(self, experiment: str) -> Moment:
        """Restrict views to the contexts that an experiment chose, in the newest context set of this moment.

        Raises NotInIndexError if it had not chosen any by then.
        """
        moment = replace(self, experiment=experiment)
        if not moment.context_sets:
            sets = self.index.context_sets(self.time.date(), limit=_RECENT_SETS)
            existing = sorted({name for context_set in sets for name in context_set.experiments})
            raise NotInIndexError.because(
                f"experiment '{experiment}' has no context set up to {self.time.date()}",
                f"select contexts first; those that have: {', '.join(existing) or 'none'}",
            )
        return moment

    @cached_property
    def context_sets(self) -> list[ContextSet]:
        """The newest context set of this moment with the experiment's contexts; without one all of the newest date."""
        return newest_context_sets(self.index, self.time.date(), self.experiment)

    def keys(self) -> list[str]:
        """Return the names of the data elements that are visible at this moment."""
        return sorted({*self._services(), *self._globals()})

    def __getitem__(self, key: str) -> View:
        """Return a view of a data element. Raises DataKeyError for one that was not captured by then."""
        version = published_version_at(self.index, key, AsOf(), self.time)
        if version is not None:
            return GlobalView(self, version)
        services = self._services(key)
        if key in services:
            return ServiceView(self, services[key])
        visible = [*self._services(), *self._globals()]
        if not visible and not self.index.runs(1) and not self.index.global_elements():
            raise NotInIndexError.because(f"nothing is published in {self.index.uri} yet", "take a snapshot first")
        raise DataKeyError.unknown(f"data key at {self.time.isoformat()}", key, visible)

    def _services(self, element: str | None = None) -> dict[str, Service]:
        """Return the services whose elements are visible, by element, as the last run of each declares it.

        element: search for this one only
        """
        services: dict[str, Service] = {}
        declared = [service for service in self.index.elements() if element in (None, service.element.name)]
        for name, service in dict.fromkeys((each.element.name, each.name) for each in declared):
            known = [each for each in declared if (each.element.name, each.name) == (name, service)]
            last: Service | None
            try:
                if len(known) > 1:  # of the newest snapshots the latest published by then counts
                    page = first_page(self.index, known[0], (FIRST_MOMENT, self.time), self.time)
                    last = page.snapshots[-1].service if page.snapshots else None
                else:
                    seen = self.index.iterate_snapshots(service, FIRST_MOMENT, self.time)
                    last = next((s.service for s in seen if s.service.element.name == name), None)
            except UnreadableRecordError:  # raised when this element is viewed
                last = known[0]
            if last is not None:
                services.setdefault(name, last)
        return services

    def _globals(self) -> list[str]:
        return [name for name in self.index.global_elements() if self._has_version(name)]

    def _has_version(self, element: str) -> bool:
        try:
            return self.index.global_version_at(element, self.time) is not None
        except UnreadableRecordError:  # it exists, and the error is raised when it is viewed
            return True

    def _ipython_key_completions_(self) -> list[str]:
        return self.keys()

    def __repr__(self) -> str:
        """One line for people."""
        contexts = f"contexts of {self.experiment}" if self.experiment else "all contexts"
        older = "" if self.rule.max_age is None else f", nothing older than {self.rule.max_age}"
        return plain_text(f"moment {self.time.isoformat()}: {contexts}{older}")


class View(Readable):
    """A view of an element, which is read only when it is converted to a frame."""

    @property
    @abstractmethod
    def confidence(self) -> float:
        """Successful responses / contexts requested, in the data's source."""

    @property
    @abstractmethod
    def coverage(self) -> float:
        """Share of the contexts that have data."""


@dataclass(frozen=True, repr=False)
class ServiceView(View):
    """A service's element as of a moment: for each key the row that the as-of rule selects.

    Its type is the one that the service declared last by then; what it captured under other types is read as that one.
    """

    moment: Moment
    service: Service

    def to_arrow(self) -> pa.Table:
        """Read the service's key, captured_at, the run that captured it and the element, for keys that have one."""
        keys = self._keys()
        return state_rows(keys, self._match(keys), self._files, self.service)

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Return the same rows as a Spark DataFrame whose tasks read them, each a bucket; nothing is read before.

        What is read is fixed now: data that is published later is not in it.
        """
        require_spark(spark)
        return lazy_frame(spark, view_schema(self.service), self.bucket_views(), BucketView.rows)

    def bucket_views(self) -> list[BucketView]:
        """Return what each bucket's task reads. Together their rows are those of `to_arrow`, each bucket's sorted."""
        buckets = Buckets.of(self._published)
        variable, source = buckets.variable, self._source
        groups = None if self.moment.experiment is None else tuple(self._contexts.required_groups())
        return [
            BucketView(
                source if variable is None else source.of_bucket(bucket, buckets.count, variable),
                to_micros(self.moment.time),
                self.moment.storage.uri,
                bucket,
                buckets,
                groups,
                self.moment.experiment,
            )
            for bucket in range(buckets.count)
        ]

    @property
    def confidence(self) -> float:
        """Successful responses / contexts requested, of the newest snapshot of this moment; 0 without any."""
        return next((one.confidence for one in self._newest_first() if one.service == self.service), 0.0)

    @property
    def coverage(self) -> float:
        """Share of the context set's distinct keys that have an element; 0 without a context set."""
        contexts = self._contexts.keys()
        if contexts is None or contexts.num_rows == 0:
            return 0.0
        return 1.0 - float(self._match(contexts).absent.mean())

    def __repr__(self) -> str:
        """One line for people."""
        element, moment = self.service.element, self.moment
        contexts = f"for {moment.experiment}" if moment.experiment else "all contexts"
        return plain_text(
            f"{element.name}: {element.type} as of {moment.time.isoformat()}, {contexts}, "
            f"confidence {self.confidence:.3f}"
        )

    def newest(self, count: int) -> list[ServiceSnapshot]:
        """Return the visible snapshots that captured last, at most so many, the last first. No others are read."""
        return list(islice((one for one in self._newest_first() if self.service.reads(one.service)), count))

    def _newest_first(self) -> Iterator[ServiceSnapshot]:
        window = self.moment.rule.window(self.moment.time, self.moment.time)
        return self.moment.index.iterate_snapshots(self.service.name, *window)

    @cached_property
    def _published(self) -> list[ServiceSnapshot]:
        """The visible snapshots, the earliest published first."""
        first, last = self.moment.rule.window(self.moment.time, self.moment.time)
        visible = self.moment.index.snapshots(self.service.name, first, last)
        return [snapshot for snapshot in reversed(visible) if self.service.reads(snapshot.service)]

    @property
    def snapshots(self) -> list[ServiceSnapshot]:
        """The visible snapshots, by the time of capture and then of publishing."""
        return sorted(self._published, key=lambda snapshot: snapshot.captured_to or self.moment.time)

    @cached_property
    def _files(self) -> list[CaptureFile]:
        """Files of all snapshots, the earliest published first, so that of equal captures the later wins."""
        return [CaptureFile(snapshot, file) for snapshot in self._published for file in snapshot.files]

    def _keys(self) -> pa.Table:
        """Return the experiment's keys, or all that were ever captured."""
        if self.moment.experiment is None:
            return captured_keys(self.service, self._files, self.moment.storage, lambda keys: keys)
        self._contexts.required_groups()
        contexts = self._contexts.keys()
        assert contexts is not None  # there are such groups
        return contexts

    @cached_property
    def _contexts(self) -> ServiceContexts:
        moment = self.moment
        return ServiceContexts(self.service, moment.context_sets, moment.storage, moment.experiment)

    @property
    def _source(self) -> ServiceSource:
        return ServiceSource(self.service.element, self.service, self.moment.rule, tuple(self._published))

    def _match(self, keys: pa.Table) -> ElementMatch:
        return match_at(keys, to_micros(self.moment.time), self._source, self._files, self.moment.storage)


@dataclass(frozen=True, repr=False)
class GlobalView(View):
    """A global element as of a moment: the rows of the version that was valid."""

    moment: Moment
    version: GlobalVersion

    def to_arrow(self) -> pa.Table:
        """Read the version's rows, one column for each field."""
        return read_global_version(self.version, self.moment.storage)

    def to_spark(self, spark: SparkSession) -> DataFrame:
        """Return the same rows as a Spark DataFrame whose tasks read them, each a file; nothing is read before."""
        require_spark(spark)
        parts = [replace(self.version, files=(file,)) for file in self.version.files]
        read = partial(_read_part, self.moment.storage.uri)
        return lazy_frame(spark, pa.schema(list(self.version.element.type)), parts, read)

    @property
    def confidence(self) -> float:
        """Always 1: a version is complete."""
        return 1.0

    @property
    def coverage(self) -> float:
        """Always 1: a global element belongs to every context."""
        return 1.0

    def __repr__(self) -> str:
        """One line for people."""
        version = self.version
        return plain_text(
            f"{version.element.name}: {version.element.type} as of {self.moment.time.isoformat()}, "
            f"version {version.version_id} valid from {version.valid_from.isoformat()}"
        )


def _read_part(storage_uri: str, version: GlobalVersion) -> Iterator[pa.Table]:
    yield read_global_version(version, open_storage(storage_uri))
