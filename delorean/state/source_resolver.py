"""Resolves where data elements come from: the snapshots and versions that label rows can see at their times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from delorean.labels import Labels
from delorean.state.rules import AsOf, ConfidenceFloor
from delorean.state.snapshot_pages import SnapshotPage, first_page, longer_page, page_back_to, require_all, snapshots_of
from delorean.state.sources import GlobalSource, PinnedSources, ServiceSource, captured_within
from delorean.state.versions import in_order, versions_in_view
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, QualityError
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, GlobalVersion, ServiceSnapshot, SnapshotRun


@dataclass
class SourceResolver:
    """Resolves the sources of elements for label data.

    rules, floors: by element
    of_any_type: elements whose types are not checked, because their values are not read
    paged: whether to list only the newest snapshots, which serve most rows; `ServiceSource.rest` is then set
    more: elements of which more snapshots than the pinned ones are needed
    back_to: element → list its snapshots, beside the pinned ones, back to this `ServiceSource.rest`
    notes: remarks for the user about the choice of sources, added to while resolving
    """

    labels: Labels
    index: SnapshotIndex
    rules: Mapping[str, AsOf]
    floors: Mapping[str, ConfidenceFloor]
    pinned: PinnedSources | None = None
    of_any_type: Collection[str] = ()
    paged: bool = False
    more: Collection[str] = ()
    back_to: Mapping[str, datetime | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def resolve(self, elements: Sequence[DataKey]) -> tuple[list[ServiceSource], list[GlobalSource]]:
        """Resolve the sources of all elements. Raises DataKeyError, ConfigError, QualityError, ReplayError."""
        _check_rules(elements, self.rules, self.floors)
        services, global_sources = [], []
        for element in elements:
            rule = self.rules.get(element.name, AsOf())
            if element.kind is Kind.GLOBAL_ELEMENT:
                global_sources.append(GlobalSource(element, rule, self._versions(element, rule)))
            else:
                services.append(self.service_source(element))
        return services, global_sources

    @cached_property
    def _declared(self) -> Mapping[str, Sequence[Service]]:
        return declared_services(self.index)

    def service_source(self, element: DataKey, growth: int = 0) -> ServiceSource:
        """Resolve the source of a service's element. growth: how many snapshots a page lists, see `first_page`."""
        rule, floor = self.rules.get(element.name, AsOf()), self.floors.get(element.name)
        if element.name not in self._declared:
            raise DataKeyError.unknown("data key: no snapshot has the element", element.name, self._declared)
        unpinned = self.pinned is None
        page = self._snapshots(element.name, rule, growth) if unpinned else self._pinned_page(element.name, rule)
        service = self._service(element, page)
        self._check_keys(service, page, rule)
        kept, skipped = self._apply_floor(element.name, page.snapshots, floor)
        return ServiceSource(element, service, rule, kept, skipped, page.rest)

    def _snapshots(self, element: str, rule: AsOf, growth: int) -> SnapshotPage:
        """Return the snapshots that the labels' times may see."""
        window, earliest = self._window(rule)
        of_service = {}
        for name, service in {service.name: service for service in self._declared[element]}.items():
            if self.paged:
                page = first_page(self.index, service, window, earliest, growth)
            else:
                page = SnapshotPage(tuple(snapshots_of(self.index, service, window)), None)
            if page.snapshots:
                of_service[name] = page
        if len(of_service) > 1:
            raise DataKeyError.because(
                f"element '{element}' comes from several services: {', '.join(sorted(of_service))}",
                "give the element of one of them another name, or max_age, so that rows see one of them",
            )
        return next(iter(of_service.values()), SnapshotPage((), None))

    def _window(self, rule: AsOf) -> tuple[tuple[datetime, datetime], datetime]:
        """Return the window of captures that rows may see, and the last that the earliest row may see."""
        earliest, latest = self.labels.earliest, self.labels.latest
        return rule.window(earliest, latest), rule.window(earliest, earliest)[1]

    def _pinned_page(self, element: str, rule: AsOf) -> SnapshotPage:
        assert self.pinned is not None
        run_ids, rest = self.pinned.snapshots.get(element, ()), self.pinned.rests.get(element)
        found = ((id_, s) for id_ in run_ids if id_ in self._pinned_runs for s in self._pinned_runs[id_].services)
        of_run = {run_id: snapshot for run_id, snapshot in found if snapshot.service.element.name == element}
        require_all(f"snapshot runs of '{element}'", [run_id for run_id in run_ids if run_id not in of_run])
        snapshots = tuple(of_run[run_id] for run_id in run_ids)
        if rest is None or (element not in self.more and element not in self.back_to):
            return SnapshotPage(snapshots, rest)
        service = snapshots[-1].service if snapshots else self._declared[element][0]
        if element in self.back_to:
            return page_back_to(self.index, service, self._window(rule)[0], run_ids, rest, self.back_to[element])
        return longer_page(self.index, service, *self._window(rule), run_ids, rest)

    @cached_property
    def _pinned_runs(self) -> Mapping[str, SnapshotRun]:
        assert self.pinned is not None
        return self.index.runs_by_id({run_id for run_ids in self.pinned.snapshots.values() for run_id in run_ids})

    def _service(self, element: DataKey, page: SnapshotPage) -> Service:
        """Choose the service's declaration to use: the latest published that can be read as the element's type.

        Raises DataKeyError if no declaration can. A snapshot that cannot be read so is refused when it serves a row.
        """
        declared = [snapshot.service for snapshot in reversed(page.snapshots)]
        if not declared or page.rest is not None:
            declared += self._declared[element.name]
        if element.name in self.of_any_type:
            return declared[0]
        fitting = next((service for service in declared if element.reads(service.element.type)), None)
        if fitting is None:
            element.adapter(declared[0].element.type)  # raises
        return fitting or declared[0]

    def _check_keys(self, service: Service, page: SnapshotPage, rule: AsOf) -> None:
        """Require the service's key in the context, and snapshots under that key where rows see any snapshot."""
        variables = {key.name: key.type for key in self.labels.context}
        for key in service.key:
            if key.name not in variables:
                raise DataKeyError.unknown(
                    f"context variable that service '{service.name}' is keyed by", key.name, variables
                )
        others = [snapshot for snapshot in page.snapshots if snapshot.service.key != service.key]
        for time in (self.labels.earliest, self.labels.latest) if others else ():
            keys = {s.service.key for s in page.snapshots if captured_within(s, *rule.window(time, time))}
            if keys and service.key not in keys and page.rest is None:
                raise DataKeyError.because(
                    f"service '{service.name}' has snapshots under different keys: label rows at {time.isoformat()} "
                    f"see none under ({', '.join(variable.name for variable in service.key)})",
                    "generate for the times before and after the key changed separately",
                )
        if others:
            self.notes.append(
                f"{service.name}: {len(others)} snapshots under another key are ignored, up to run {others[-1].run_id}"
            )

    def _apply_floor(
        self, element: str, snapshots: tuple[ServiceSnapshot, ...], floor: ConfidenceFloor | None
    ) -> tuple[tuple[ServiceSnapshot, ...], frozenset[str]]:
        """Return the snapshots to match with, and which of them must not serve."""
        low = [] if floor is None else [s for s in snapshots if s.confidence < floor.floor]
        if floor is None or not low:
            return snapshots, frozenset()
        listed = ", ".join(f"{snapshot.run_id} ({snapshot.confidence:.3f})" for snapshot in low)
        if floor.below == "fail":
            raise QualityError.because(
                f"{len(low)} of {len(snapshots)} snapshot runs of '{element}' have a confidence below {floor.floor}: "
                f"{listed}",
                'capture again, lower the floor, or set below = "previous" or "skip"',
            )
        runs = frozenset(snapshot.run_id for snapshot in low)
        self.notes.append(f"{element}: {len(low)} runs below confidence {floor.floor} are not used: {listed}")
        if floor.below == "previous":
            return tuple(snapshot for snapshot in snapshots if snapshot.run_id not in runs), frozenset()
        return snapshots, runs

    def _versions(self, element: DataKey, rule: AsOf) -> tuple[GlobalVersion, ...]:
        """Return the versions that the labels' times may see. Their types are compared when they are read."""
        if self.pinned is None:
            versions = versions_in_view(self.index, element.name, rule, self.labels.earliest, self.labels.latest)
            if not versions and not self.index.global_versions(element.name, END_OF_TIME, 1):
                raise DataKeyError.because(
                    f"global element '{element.name}' has no version", "publish one: publish_global(…)"
                )
            return versions
        pinned = {
            id_: self.index.global_version(element.name, id_) for id_ in self.pinned.globals.get(element.name, ())
        }
        require_all(
            f"versions of global element '{element.name}'",
            sorted(version_id for version_id, version in pinned.items() if version is None),
        )
        return in_order(version for version in pinned.values() if version is not None)


def declared_services(index: SnapshotIndex) -> dict[str, list[Service]]:
    """Return for each service element the services that captured it, as declared, the latest published first."""
    declared: dict[str, list[Service]] = {}
    for service in index.elements():
        declared.setdefault(service.element.name, []).append(service)
    return declared


def _check_rules(elements: Sequence[DataKey], rules: Mapping[str, AsOf], floors: Mapping[str, ConfidenceFloor]) -> None:
    """Raise ConfigError for rules and floors of other elements, or that do not apply to their elements."""
    kinds = {element.name: element.kind for element in elements}
    for what, names in (("as-of rule", rules), ("confidence floor", floors)):
        for name in names:
            if name not in kinds:
                raise ConfigError.unknown(f"element with {what}", name, kinds)
    for name, rule in rules.items():
        if not isinstance(rule, AsOf):
            raise ConfigError.mistaken(f"the as-of rule of '{name}'", rule, "AsOf(max_age=…)")
        if rule.as_published and kinds[name] is not Kind.GLOBAL_ELEMENT:
            raise ConfigError.because(
                f"the as-of rule of '{name}' sets as_published, which applies to global elements only",
                "remove it: a service's responses are never backfilled",
            )
    for name in floors:
        if kinds[name] is Kind.GLOBAL_ELEMENT:
            raise ConfigError.because(
                f"global element '{name}' has a confidence floor", "remove it: a version is always complete"
            )
