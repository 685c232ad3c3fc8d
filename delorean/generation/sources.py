"""Where the data elements of a generation come from: which snapshots and which versions its labels' times can see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from delorean.generation.rules import AsOf, ConfidenceFloor
from delorean.labels import Labels
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, QualityError, ReplayError
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, DataFile, GlobalVersion, ServiceSnapshot


@dataclass(frozen=True)
class ServiceSource:
    """Where a service element comes from.

    snapshots: the earliest published first, so that of ties the later wins
    skipped: of these, runs whose confidence is too low to be used: a row that they would serve goes without
    """

    element: DataKey
    service: Service
    rule: AsOf
    snapshots: tuple[ServiceSnapshot, ...]
    skipped: frozenset[str] = frozenset()

    @property
    def read(self) -> tuple[str, ...]:
        """The ids of the snapshots' runs, in their order."""
        return tuple(snapshot.run_id for snapshot in self.snapshots)

    def files(self, bucket: int, buckets: int, bucket_variable: str) -> Iterator[tuple[ServiceSnapshot, DataFile]]:
        """Give the files that hold the keys of one bucket of labels, in the snapshots' order.

        Bucket i of n lines up with those of another count m by index modulo min(n, m); a snapshot bucketed by another
        variable, or not at all, is read whole.
        """
        for snapshot in self.snapshots:
            lined_up = min(buckets, snapshot.buckets) if snapshot.bucket_variable == bucket_variable else 1
            for file in snapshot.files:
                if file.bucket % lined_up == bucket % lined_up:
                    yield snapshot, file


@dataclass(frozen=True)
class GlobalSource:
    """Where a global element comes from. versions: by valid_from, of equal ones the later published last."""

    element: DataKey
    rule: AsOf
    versions: tuple[GlobalVersion, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """The ids of the versions, in their order."""
        return tuple(version.version_id for version in self.versions)

    def starts(self) -> list[datetime]:
        """From when on each version counts."""
        return [_start(version, self.rule) for version in self.versions]


@dataclass(frozen=True)
class Pinned:
    """What an earlier generation read, to be read again whatever was published since.

    snapshots: element → run ids in the order in which they were published; globals: element → version ids
    """

    snapshots: Mapping[str, Sequence[str]]
    globals: Mapping[str, Sequence[str]]


@dataclass
class SourceFinder:
    """Finds the sources of elements for label data.

    rules, floors: by element
    notes: what a person should know about the choice, added to as sources are found
    """

    labels: Labels
    index: SnapshotIndex
    rules: Mapping[str, AsOf]
    floors: Mapping[str, ConfidenceFloor]
    pinned: Pinned | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Look at all runs once."""
        self._by_run = {(run.run_id, s.service.element.name): s for run in self.index.runs() for s in run.services}
        self._services: dict[str, list[Service]] = {}  # element → services, of the latest published run first
        for snapshot in self._by_run.values():
            self._services.setdefault(snapshot.service.element.name, []).append(snapshot.service)

    def find(self, elements: Sequence[DataKey]) -> tuple[list[ServiceSource], list[GlobalSource]]:
        """Find the sources of all elements. Raises DataKeyError, ConfigError, QualityError, ReplayError."""
        names = [element.name for element in elements]
        for what, given in (("as-of rule", self.rules), ("confidence floor", self.floors)):
            for name in given:
                if name not in names:
                    raise ConfigError.unknown(f"element with {what}", name, names)
        for name, given_rule in self.rules.items():
            if not isinstance(given_rule, AsOf):
                raise ConfigError.mistaken(f"the as-of rule of '{name}'", given_rule, "AsOf(max_age=…)")
        services, global_sources = [], []
        for element in elements:
            rule = self.rules.get(element.name, AsOf())
            if element.kind is Kind.GLOBAL_ELEMENT:
                if element.name in self.floors:
                    raise ConfigError.because(
                        f"global element '{element.name}' has a confidence floor", "a version is whole: remove it"
                    )
                global_sources.append(self._global_source(element, rule))
            else:
                if rule.as_published:
                    raise ConfigError.because(
                        f"as-of rule of '{element.name}' says as_published, which is for global elements",
                        "remove it: what a service answered is never filled in afterwards",
                    )
                services.append(self._service_source(element, rule, self.floors.get(element.name)))
        return services, global_sources

    def _service_source(self, element: DataKey, rule: AsOf, floor: ConfidenceFloor | None) -> ServiceSource:
        if element.name not in self._services:
            raise DataKeyError.unknown("data key: no snapshot has the element", element.name, self._services)
        names = {service.name for service in self._services[element.name]}
        if len(names) > 1:
            raise DataKeyError.because(
                f"element '{element.name}' comes from several services: {', '.join(sorted(names))}"
            )
        snapshots = self._snapshots(element, names.pop(), rule)
        service = snapshots[-1].service if snapshots else self._services[element.name][0]
        self._refuse_other_types(element, service, snapshots)
        kept, skipped = self._confident(element.name, snapshots, floor)
        return ServiceSource(element, service, rule, kept, skipped)

    def _snapshots(self, element: DataKey, service: str, rule: AsOf) -> tuple[ServiceSnapshot, ...]:
        if self.pinned is None:
            first, last = rule.window(self.labels.earliest, self.labels.latest)
            # Newest published first in the index; the rule wants the later published to win ties, so it comes last.
            return tuple(reversed(self.index.snapshots(service, first, last)))
        wanted = self.pinned.snapshots.get(element.name, ())
        gone = [run_id for run_id in wanted if (run_id, element.name) not in self._by_run]
        if gone:
            raise ReplayError.because(
                f"snapshot runs of '{element.name}' are not in the index any more: {', '.join(gone)}",
                "restore the index from a copy",
            )
        return tuple(self._by_run[run_id, element.name] for run_id in wanted)

    def _refuse_other_types(self, element: DataKey, service: Service, snapshots: Sequence[ServiceSnapshot]) -> None:
        for found in {snapshot.service for snapshot in snapshots} or {service}:
            if found.element.type != element.type:
                raise DataKeyError.because(
                    f"element '{element.name}': snapshots have {found.element.type}, encoders declare {element.type}",
                    "declare the type that the service answers with",
                )
            if found.key != service.key:
                raise DataKeyError.because(f"service '{service.name}' has snapshots under different keys")
        variables = {key.name: key.type for key in self.labels.context}
        for key in service.key:
            if key.name not in variables:
                raise DataKeyError.unknown(
                    f"context variable that service '{service.name}' is keyed by", key.name, variables
                )

    def _confident(
        self, element: str, snapshots: tuple[ServiceSnapshot, ...], floor: ConfidenceFloor | None
    ) -> tuple[tuple[ServiceSnapshot, ...], frozenset[str]]:
        """Give the snapshots to match with, and which of them may not serve."""
        low = [] if floor is None else [s for s in snapshots if s.confidence < floor.floor]
        if floor is None or not low:
            return snapshots, frozenset()
        shown = ", ".join(f"{snapshot.run_id} ({snapshot.confidence:.3f})" for snapshot in low)
        if floor.below == "fail":
            raise QualityError.because(
                f"{len(low)} of {len(snapshots)} snapshot runs of '{element}' have a confidence below {floor.floor}: "
                f"{shown}",
                'capture again, lower the floor, or say below = "previous" or "skip"',
            )
        runs = frozenset(snapshot.run_id for snapshot in low)
        self.notes.append(f"{element}: {len(low)} runs below confidence {floor.floor} are not used: {shown}")
        if floor.below == "previous":
            return tuple(snapshot for snapshot in snapshots if snapshot.run_id not in runs), frozenset()
        return snapshots, runs

    def _global_source(self, element: DataKey, rule: AsOf) -> GlobalSource:
        every = tuple(reversed(self.index.global_versions(element.name, END_OF_TIME)))
        if not every:
            raise DataKeyError.because(
                f"global element '{element.name}' has no version", "publish one: publish_global(…)"
            )
        for version in every:
            if version.element.type != element.type:
                raise DataKeyError.because(
                    f"global element '{element.name}': version '{version.version_id}' has {version.element.type}, "
                    f"encoders declare {element.type}"
                )
        if self.pinned is None:
            _, last = rule.window(self.labels.earliest, self.labels.latest)
            return GlobalSource(element, rule, _effective([v for v in every if _start(v, rule) <= last], rule))
        wanted = self.pinned.globals.get(element.name, ())
        gone = sorted(set(wanted) - {version.version_id for version in every})
        if gone:
            raise ReplayError.because(
                f"versions of global element '{element.name}' are not in the index any more: {', '.join(gone)}",
                "restore the index from a copy",
            )
        return GlobalSource(element, rule, tuple(v for v in every if v.version_id in wanted))


def _start(version: GlobalVersion, rule: AsOf) -> datetime:
    if not rule.as_published or version.published_at is None:
        return version.valid_from
    return max(version.valid_from, version.published_at)


def _effective(versions: Sequence[GlobalVersion], rule: AsOf) -> tuple[GlobalVersion, ...]:
    """Leave out versions that were published only after one that is valid from later: nobody ever saw those."""
    kept: list[GlobalVersion] = []
    for version in reversed(versions):
        if not kept or _start(version, rule) <= _start(kept[-1], rule):
            kept.append(version)
    return tuple(reversed(kept))
