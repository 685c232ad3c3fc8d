"""What a generation will read: resolved once by the driver, so that every bucket task is a pure function of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from delorean.labels import TIME_COLUMN, Labels
from encoders.bound_model import BoundModel
from encoders.feature_model import FeatureModel
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError
from schemas.services import Service
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile, GlobalVersion, ServiceSnapshot

_EVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AsOf:
    """How the as-of rule is set for one element, see `delorean.as_of_join`."""

    max_age: timedelta | None = None
    lag: timedelta = timedelta(0)
    allow_exact: bool = True

    def __post_init__(self) -> None:
        """Refuse what could read the future or never match."""
        if self.lag < timedelta(0) or (self.max_age is not None and self.max_age < self.lag):
            raise ConfigError.because(
                f"as-of rule has lag {self.lag} and max_age {self.max_age}, expected 0 ≤ lag ≤ max_age"
            )

    def window(self, earliest: datetime, latest: datetime) -> tuple[datetime, datetime]:
        """Give the range of captures that times from earliest to latest may see."""
        first = _EVER if self.max_age is None or earliest - _EVER < self.max_age else earliest - self.max_age
        return first, (latest - self.lag if latest - _EVER > self.lag else _EVER)


@dataclass(frozen=True)
class ServiceSource:
    """Where a service element comes from. snapshots: the earliest published first, so that of ties the later wins."""

    element: DataKey
    service: Service
    rule: AsOf
    snapshots: tuple[ServiceSnapshot, ...]

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


@dataclass(frozen=True)
class GenerationPlan:
    """All that the bucket tasks of one generation need."""

    labels: Labels
    model: BoundModel
    features: tuple[str, ...]
    services: tuple[ServiceSource, ...]
    globals: tuple[GlobalSource, ...]
    storage_uri: str
    notes: tuple[str, ...] = field(default=())

    @property
    def elements(self) -> tuple[DataKey, ...]:
        """The data elements that features are made from."""
        return (*(source.element for source in self.services), *(source.element for source in self.globals))

    @property
    def schema(self) -> pa.Schema:
        """Of the feature set: see `delorean.generation`."""
        fields = list(self.labels.schema)
        fields += [pa.field(name, pa.list_(pa.float32())) for name in self.features]
        fields += [
            pa.field(captured_column(key.name), self.labels.schema.field(TIME_COLUMN).type) for key in self.elements
        ]
        return pa.schema([*fields, pa.field(LATEST_INPUT_COLUMN, self.labels.schema.field(TIME_COLUMN).type)])


LATEST_INPUT_COLUMN = "latest_input_at"


def captured_column(element: str) -> str:
    """Name the column that says when the element of a row was captured."""
    return f"{element}_captured_at"


def plan_generation(
    labels: Labels,
    model: FeatureModel,
    index: SnapshotIndex,
    storage_uri: str,
    rules: Mapping[str, AsOf] | None = None,
) -> GenerationPlan:
    """Resolve which snapshots and versions the labels' times can see.

    rules: element's name → as-of rule; an element not named takes `AsOf()`

    Raises DataKeyError for an element that nobody captures or whose type differs, ConfigError for rules of unknown
    elements and for columns that would have one name.
    """
    rules = dict(rules or {})
    for name in rules:
        if name not in model.elements:
            raise ConfigError.unknown("element with an as-of rule", name, model.elements)
    captured = _captured(index)
    services, global_sources = [], []
    for element in model.elements.values():
        rule = rules.get(element.name, AsOf())
        if element.kind is Kind.GLOBAL_ELEMENT:
            global_sources.append(_global_source(element, rule, labels, index))
        else:
            services.append(_service_source(element, rule, labels, index, captured))
    plan = GenerationPlan(
        labels=labels,
        model=model.bind(labels.context, labels.items),
        features=tuple(model.features),
        services=tuple(services),
        globals=tuple(global_sources),
        storage_uri=storage_uri,
        notes=tuple(_costs(services, labels)),
    )
    _refuse_name_clashes(plan)
    return plan


def _captured(index: SnapshotIndex) -> dict[str, list[Service]]:
    """Give for each element the services that ever answered with it, the latest published first."""
    captured: dict[str, list[Service]] = {}
    for run in index.runs():
        for snapshot in run.services:
            captured.setdefault(snapshot.service.element.name, []).append(snapshot.service)
    return captured


def _service_source(
    element: DataKey, rule: AsOf, labels: Labels, index: SnapshotIndex, captured: Mapping[str, Sequence[Service]]
) -> ServiceSource:
    if element.name not in captured:
        raise DataKeyError.unknown("data key: no snapshot has the element", element.name, captured)
    names = {service.name for service in captured[element.name]}
    if len(names) > 1:
        raise DataKeyError.because(f"element '{element.name}' comes from several services: {', '.join(sorted(names))}")
    first, last = rule.window(labels.earliest, labels.latest)
    # Newest published first in the index; the rule wants the later published to win ties, so it comes last.
    snapshots = tuple(reversed(index.snapshots(names.pop(), first, last)))
    every = {snapshot.service for snapshot in snapshots}
    service = snapshots[-1].service if snapshots else captured[element.name][0]
    for found in every or {service}:
        if found.element.type != element.type:
            raise DataKeyError.because(
                f"element '{element.name}': snapshots have {found.element.type}, encoders declare {element.type}",
                "declare the type that the service answers with",
            )
        if found.key != service.key:
            raise DataKeyError.because(f"service '{service.name}' has snapshots under different keys")
    variables = {key.name: key.type for key in labels.context}
    for key in service.key:
        if key.name not in variables:
            raise DataKeyError.unknown(
                f"context variable that service '{service.name}' is keyed by", key.name, variables
            )
    return ServiceSource(element, service, rule, snapshots)


def _global_source(element: DataKey, rule: AsOf, labels: Labels, index: SnapshotIndex) -> GlobalSource:
    _, last = rule.window(labels.earliest, labels.latest)
    versions = tuple(reversed(index.global_versions(element.name, last)))
    if not versions and not index.global_versions(element.name, datetime.max.replace(tzinfo=UTC)):
        raise DataKeyError.because(f"global element '{element.name}' has no version", "publish one: publish_global(…)")
    for version in versions:
        if version.element.type != element.type:
            raise DataKeyError.because(
                f"global element '{element.name}': version '{version.version_id}' has {version.element.type}, "
                f"encoders declare {element.type}"
            )
    return GlobalSource(element, rule, versions)


def _costs(services: list[ServiceSource], labels: Labels) -> Iterator[str]:
    """Say which snapshots every task has to read whole."""
    for source in services:
        apart = [s for s in source.snapshots if s.bucket_variable != labels.bucket_variable]
        size = sum(file.bytes for snapshot in apart for file in snapshot.files)
        if apart and labels.buckets > 1:
            yield (
                f"{source.service.name}: {len(apart)} snapshots are not bucketed by '{labels.bucket_variable}', "
                f"so each of {labels.buckets} tasks reads all of their {size / 2**20:.1f} MiB"
            )


def _refuse_name_clashes(plan: GenerationPlan) -> None:
    names = plan.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError.because(
            f"the feature set would have several columns named {', '.join(twice)}", "rename the feature or the variable"
        )
