"""Where the data elements of a generation come from: which snapshots and which versions its labels' times can see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from delorean.labels import Labels
from delorean.state.matched import CaptureFile
from delorean.state.requirements import AsOf, ConfidenceFloor
from delorean.state.versions import GlobalSource, in_order, versions_in_view
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, QualityError, ReplayError
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, ServiceSnapshot


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

    def files(self, bucket: int, buckets: int, bucket_variable: str) -> Iterator[CaptureFile]:
        """Give the files that hold the keys of one bucket of labels, in the snapshots' order.

        Bucket i of n lines up with those of another count m by index modulo min(n, m); a snapshot bucketed by another
        variable, or not at all, is read whole.
        """
        for snapshot in self.snapshots:
            lined_up = min(buckets, snapshot.buckets) if snapshot.bucket_variable == bucket_variable else 1
            for file in snapshot.files:
                if file.bucket % lined_up == bucket % lined_up:
                    yield CaptureFile(snapshot, file)


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
    of_any_type: elements whose types are not checked, since their values are not read
    notes: what a person should know about the choice, added to as sources are found
    """

    labels: Labels
    index: SnapshotIndex
    rules: Mapping[str, AsOf]
    floors: Mapping[str, ConfidenceFloor]
    pinned: Pinned | None = None
    of_any_type: Collection[str] = ()
    notes: list[str] = field(default_factory=list)

    def find(self, elements: Sequence[DataKey]) -> tuple[list[ServiceSource], list[GlobalSource]]:
        """Find the sources of all elements. Raises DataKeyError, ConfigError, QualityError, ReplayError."""
        check_rules(elements, self.rules, self.floors)
        services, global_sources = [], []
        for element in elements:
            rule = self.rules.get(element.name, AsOf())
            if element.kind is Kind.GLOBAL_ELEMENT:
                global_sources.append(GlobalSource(element, rule, self._versions(element, rule)))
            else:
                services.append(self._service_source(element, rule, self.floors.get(element.name)))
        return services, global_sources

    @cached_property
    def _declared(self) -> Mapping[str, Sequence[Service]]:
        """Element → the services that have captured it, as declared, the latest published first."""
        declared: dict[str, list[Service]] = {}
        for service in self.index.elements():
            declared.setdefault(service.element.name, []).append(service)
        return declared

    def _service_source(self, element: DataKey, rule: AsOf, floor: ConfidenceFloor | None) -> ServiceSource:
        if element.name not in self._declared:
            raise DataKeyError.unknown("data key: no snapshot has the element", element.name, self._declared)
        if self.pinned is None:
            snapshots = self._snapshots(element.name, rule)
        else:
            snapshots = self._pinned_snapshots(element.name, self.pinned.snapshots.get(element.name, ()))
        service = self._service(element, snapshots)
        self._refuse_other_keys(service, snapshots, rule)
        kept, skipped = self._confident(element.name, snapshots, floor)
        return ServiceSource(element, service, rule, kept, skipped)

    def _snapshots(self, element: str, rule: AsOf) -> tuple[ServiceSnapshot, ...]:
        """Give the snapshots that the labels' times may see, the earliest published first."""
        window = rule.window(self.labels.earliest, self.labels.latest)
        names = dict.fromkeys(service.name for service in self._declared[element])
        seen = {
            name: [s for s in self.index.snapshots(name, *window) if s.service.element.name == element]
            for name in names
        }
        filled = [name for name, snapshots in seen.items() if snapshots]
        if len(filled) > 1:
            raise DataKeyError.because(
                f"element '{element}' comes from several services: {', '.join(sorted(filled))}",
                "give the element of one of them another name, or max_age, so that rows see one of them",
            )
        return tuple(reversed(seen[filled[0]])) if filled else ()

    def _pinned_snapshots(self, element: str, run_ids: Sequence[str]) -> tuple[ServiceSnapshot, ...]:
        runs = self.index.runs_by_id(run_ids)
        of = {run_id: s for run_id, run in runs.items() for s in run.services if s.service.element.name == element}
        gone = [run_id for run_id in run_ids if run_id not in of]
        if gone:
            raise ReplayError.because(
                f"snapshot runs of '{element}' are not in the index any more: {', '.join(gone)}",
                "restore the index from a copy",
            )
        return tuple(of[run_id] for run_id in run_ids)

    def _service(self, element: DataKey, snapshots: Sequence[ServiceSnapshot]) -> Service:
        """Choose the declaration to go by: the latest published of the element's type.

        Raises DataKeyError where no snapshot has that type. One of another type is refused when it serves a row.
        """
        declared = [s.service for s in reversed(snapshots)] or list(self._declared[element.name])
        if element.name in self.of_any_type:
            return declared[0]
        fitting = [service for service in declared if service.element.type == element.type]
        if not fitting:
            raise DataKeyError.because(
                f"element '{element.name}': snapshots have {declared[0].element.type}, encoders declare {element.type}",
                "declare the type that the service answers with",
            )
        return fitting[0]

    def _refuse_other_keys(self, service: Service, snapshots: Sequence[ServiceSnapshot], rule: AsOf) -> None:
        variables = {key.name: key.type for key in self.labels.context}
        for key in service.key:
            if key.name not in variables:
                raise DataKeyError.unknown(
                    f"context variable that service '{service.name}' is keyed by", key.name, variables
                )
        others = [snapshot for snapshot in snapshots if snapshot.service.key != service.key]
        for time in (self.labels.earliest, self.labels.latest) if others else ():
            first, last = rule.window(time, time)
            keys = {s.service.key for s in snapshots if _captured_within(s, first, last)}
            if keys and service.key not in keys:
                raise DataKeyError.because(
                    f"service '{service.name}' has snapshots under different keys: label rows at {time.isoformat()} "
                    f"see none under ({', '.join(variable.name for variable in service.key)})",
                    "generate for the times before and after the key changed separately",
                )
        if others:
            self.notes.append(
                f"{service.name}: {len(others)} snapshots under another key are passed over, up to run "
                f"{others[-1].run_id}"
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

    def _versions(self, element: DataKey, rule: AsOf) -> tuple[GlobalVersion, ...]:
        """Give the versions that the labels' times may see. Their types are compared when they are read."""
        if self.pinned is None:
            versions = versions_in_view(self.index, element.name, rule, self.labels.earliest, self.labels.latest)
            if not versions and not self.index.global_versions(element.name, END_OF_TIME, 1):
                raise DataKeyError.because(
                    f"global element '{element.name}' has no version", "publish one: publish_global(…)"
                )
            return versions
        wanted = self.pinned.globals.get(element.name, ())
        published = {version_id: self.index.global_version(element.name, version_id) for version_id in wanted}
        gone = sorted(version_id for version_id, version in published.items() if version is None)
        if gone:
            raise ReplayError.because(
                f"versions of global element '{element.name}' are not in the index any more: {', '.join(gone)}",
                "restore the index from a copy",
            )
        return in_order(version for version in published.values() if version is not None)


def check_rules(elements: Sequence[DataKey], rules: Mapping[str, AsOf], floors: Mapping[str, ConfidenceFloor]) -> None:
    """Raise ConfigError for rules and floors of other elements, or that their elements cannot have."""
    kinds = {element.name: element.kind for element in elements}
    for what, of in (("as-of rule", rules), ("confidence floor", floors)):
        for name in of:
            if name not in kinds:
                raise ConfigError.unknown(f"element with {what}", name, kinds)
    for name, rule in rules.items():
        if not isinstance(rule, AsOf):
            raise ConfigError.mistaken(f"the as-of rule of '{name}'", rule, "AsOf(max_age=…)")
        if rule.as_published and kinds[name] is not Kind.GLOBAL_ELEMENT:
            raise ConfigError.because(
                f"as-of rule of '{name}' says as_published, which is for global elements",
                "remove it: what a service answered is never filled in afterwards",
            )
    for name in floors:
        if kinds[name] is Kind.GLOBAL_ELEMENT:
            raise ConfigError.because(
                f"global element '{name}' has a confidence floor", "a version is whole: remove it"
            )


def _captured_within(snapshot: ServiceSnapshot, first: datetime, last: datetime) -> bool:
    begin, end = snapshot.captured_from, snapshot.captured_to
    return begin is not None and end is not None and begin <= last and end >= first
