"""Where data elements come from: snapshots of a service, or versions of a global element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.labels import TIME_COLUMN
from delorean.state.adaptations import check_type, types_that_differ
from delorean.state.matches import CaptureFile, CaptureMatch
from delorean.state.provenance import micros
from delorean.state.rules import AsOf
from delorean.state.versions import find_versions, version_at
from schemas.data_keys import DataKey
from schemas.services import Service
from snapshotter.records import DataFile, GlobalVersion, ServiceSnapshot, to_micros


@dataclass(frozen=True)
class ServiceSource:
    """The snapshots that a service element comes from.

    snapshots: the earliest published first, so that of equal captures the later published wins
    skipped: runs among them whose confidence is too low: a row that they would serve goes without the element
    rest: older snapshots are not listed, of which the newest captured last at this time; None: none are left out. A row
        that they could serve better needs a longer list, see `SourceResolver.more`
    """

    element: DataKey
    service: Service
    rule: AsOf
    snapshots: tuple[ServiceSnapshot, ...]
    skipped: frozenset[str] = frozenset()
    rest: datetime | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The run ids of the snapshots, in their order."""
        return tuple(snapshot.run_id for snapshot in self.snapshots)

    @cached_property
    def differing(self) -> dict[str, pa.DataType]:
        """The runs whose values are of another type than the element's, with these types."""
        types = ((snapshot.run_id, snapshot.service.element.type) for snapshot in self.snapshots)
        return types_that_differ(self.element, types)

    def files(self, bucket: int, buckets: int, bucket_variable: str) -> Iterator[CaptureFile]:
        """Yield the files that hold the keys of one bucket of labels, in the snapshots' order.

        Bucket i of n corresponds to those of another count m by index modulo min(n, m); a snapshot bucketed by another
        variable, or not at all, is read whole.
        """
        for snapshot in self.snapshots:
            common = min(buckets, snapshot.buckets) if snapshot.bucket_variable == bucket_variable else 1
            for file in snapshot.files:
                if file.bucket % common == bucket % common:
                    yield CaptureFile(snapshot, file)

    def of_bucket(self, bucket: int, buckets: int, bucket_variable: str) -> ServiceSource:
        """Return the source without the files of other buckets, and without what no bucket task reads."""
        files: dict[str, list[DataFile]] = {snapshot.run_id: [] for snapshot in self.snapshots}
        for snapshot, file in self.files(bucket, buckets, bucket_variable):
            files[snapshot.run_id].append(file)
        kept = (replace(s, files=tuple(files[s.run_id]), reasons={}, profile={}) for s in self.snapshots)
        return replace(self, snapshots=tuple(kept))

    def needs_older(self, rows: pa.Table, match: CaptureMatch) -> bool:
        """Return whether a snapshot that is left out could serve a row better: none captured later than `rest`.

        A null in a key never matches, whatever is read.
        """
        if self.rest is None:
            return False
        rest = to_micros(self.rest)
        older = (match.file < 0) | (match.captured_at <= rest)
        for variable in self.service.key:
            older &= rows[variable.name].is_valid().to_numpy()
        if self.rule.max_age is not None:
            older &= rows[TIME_COLUMN].cast(pa.int64()).to_numpy() - micros(self.rule.max_age) <= rest
        return bool(older.any())


@dataclass(frozen=True)
class GlobalSource:
    """The versions that a global element comes from: by valid_from, of equal ones the later published last."""

    element: DataKey
    rule: AsOf
    versions: tuple[GlobalVersion, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the versions, in their order."""
        return tuple(version.version_id for version in self.versions)

    @cached_property
    def differing(self) -> dict[str, pa.DataType]:
        """The versions whose rows are of another type than the element's, with these types."""
        types = ((version.version_id, version.element.type) for version in self.versions)
        return types_that_differ(self.element, types)

    def match(self, times: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the version that each time sees, see `find_versions`."""
        return find_versions(times, self.versions, self.rule)

    def at(self, moment: datetime) -> GlobalVersion | None:
        """Return the version that a moment sees."""
        return version_at(self.versions, self.rule, moment)

    def check_types(self, versions: Sequence[GlobalVersion]) -> None:
        """Raise DataKeyError for a version whose rows cannot be read as the element's type."""
        for version in versions:
            check_type(self.element, version.element.type, f"version '{version.version_id}'")


@dataclass(frozen=True)
class PinnedSources:
    """The sources of an earlier generation, to be read again whatever was published since.

    snapshots: element → run ids in the order in which they were published; globals: element → version ids
    rests: element → `ServiceSource.rest`, of those that have one
    """

    snapshots: Mapping[str, Sequence[str]]
    globals: Mapping[str, Sequence[str]]
    rests: Mapping[str, datetime] = field(default_factory=dict)

    @classmethod
    def of(cls, services: Sequence[ServiceSource], global_sources: Sequence[GlobalSource]) -> PinnedSources:
        """Return the ids of the runs and versions of sources."""
        return cls(
            {source.element.name: source.ids for source in services},
            {source.element.name: source.ids for source in global_sources},
            {source.element.name: source.rest for source in services if source.rest is not None},
        )


def captured_within(snapshot: ServiceSnapshot, first: datetime, last: datetime) -> bool:
    """Return whether a snapshot has captures that may lie between two times."""
    begin, end = snapshot.captured_from, snapshot.captured_to
    return begin is not None and end is not None and begin <= last and end >= first
