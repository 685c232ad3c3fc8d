"""The inputs of a generation, resolved once by the driver, so that every bucket task is a pure function of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.columns import (
    CONFIDENCE_COLUMN,
    LATEST_INPUT_COLUMN,
    SPREAD_COLUMN,
    captured_column,
    run_column,
    version_column,
)
from delorean.labels import Labels
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.state.source_resolver import SourceResolver
from delorean.state.sources import GlobalSource, PinnedSources, ServiceSource
from delorean.tasks.applicability import require_features, with_impossible_features
from delorean.tasks.task_model import TaskModel, bind_for_tasks
from delorean.tasks.task_set import TaskSet
from encoders.bound_model import BoundModel
from encoders.feature_model import FeatureModel
from schemas.data_keys import DataKey, Kind
from schemas.errors import ConfigError, DataKeyError, ParadoxError
from schemas.tables import TIME
from snapshotter.index import SnapshotIndex


@dataclass(frozen=True)
class EarlierVersion:
    """A version of the feature set that already has some of a plan's features, of the same label rows and state.

    features: those that it has
    read: the elements that the other features are computed from
    unchanged: the elements of which it has the provenance
    model: the encoders of the other features; None if it has all
    same_elements: whether `unchanged` are all elements of both
    same_spread: whether it treated rows beyond the spread's limit as the plan does; otherwise it had none
    buckets: bucket → its file and what is known of its rows
    """

    version: int
    features: frozenset[str]
    read: frozenset[str]
    unchanged: frozenset[str]
    model: BoundModel | TaskModel | None
    same_elements: bool
    same_spread: bool
    buckets: Mapping[int, BucketResult]


@dataclass(frozen=True)
class GenerationPlan:
    """The inputs of all bucket tasks of a generation.

    from_services: the features whose encoders read a service's element
    earlier: to copy features from
    tasks: with the features that each cannot have; None: the label data is of one use
    vectors: the widths of the features that are vectors
    """

    labels: Labels
    model: BoundModel | TaskModel
    features: tuple[str, ...]
    from_services: frozenset[str]
    services: tuple[ServiceSource, ...]
    globals: tuple[GlobalSource, ...]
    storage_uri: str
    spread: SpreadLimit | None = None
    notes: tuple[str, ...] = field(default=())
    earlier: EarlierVersion | None = None
    tasks: TaskSet | None = None
    vectors: Mapping[str, int] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[ServiceSource | GlobalSource, ...]:
        """The sources of all elements."""
        return (*self.services, *self.globals)

    @property
    def elements(self) -> tuple[DataKey, ...]:
        """The data elements that the encoders read."""
        return tuple(source.element for source in self.sources)

    @property
    def pinned(self) -> PinnedSources:
        """The ids of the runs and versions that are read."""
        return PinnedSources.of(self.services, self.globals)

    def of_bucket(self, bucket: int) -> GenerationPlan:
        """Return the plan without what the task of one bucket does not read, which is sent to it."""
        labels, earlier = self.labels, self.earlier
        sources = (source.of_bucket(bucket, labels.buckets, labels.bucket_variable) for source in self.services)
        if earlier is not None:
            earlier = replace(earlier, buckets={bucket: earlier.buckets[bucket]})
        return replace(self, services=tuple(sources), earlier=earlier)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the feature set: see `delorean.generation`."""
        fields = [(name, pa.list_(_value_type(name in self.vectors))) for name in self.features]
        for source in self.services:
            fields += [(captured_column(source.element.name), TIME), (run_column(source.element.name), pa.string())]
        for each in self.globals:
            fields += [(captured_column(each.element.name), TIME), (version_column(each.element.name), pa.string())]
        fields += [(LATEST_INPUT_COLUMN, TIME), (SPREAD_COLUMN, pa.float64()), (CONFIDENCE_COLUMN, pa.float64())]
        return pa.schema([*self.labels.schema, *(pa.field(*each) for each in fields)])


def _value_type(vector: bool) -> pa.DataType:
    """Return the type of a feature's value for one item. Delta has no lists of a fixed size."""
    return pa.list_(pa.float32()) if vector else pa.float32()


def plan_generation(
    labels: Labels,
    model: FeatureModel,
    index: SnapshotIndex,
    storage_uri: str,
    rules: Mapping[str, AsOf] | None = None,
    *,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
    spread: SpreadLimit | None = None,
    pinned: PinnedSources | None = None,
    paged: bool = False,
    more: Collection[str] = (),
    back_to: Mapping[str, datetime | None] | None = None,
    tasks: TaskSet | None = None,
) -> GenerationPlan:
    """Resolve the snapshots and versions that the labels' times can see.

    rules: element's name → as-of rule; `AsOf()` for other elements
    confidence: element's name → the floor of its runs' confidence
    pinned: read these and no others, as an earlier generation did
    paged: list only the newest snapshots, which serve most rows; see `ServiceSource.rest`
    more: elements of which more snapshots than the pinned ones are needed
    back_to: element → list its snapshots, beside the pinned ones, back to this `ServiceSource.rest`
    tasks: those of the label data, with defaults and the features that other tasks own; None: as they are recorded

    Raises DataKeyError for an element that is not captured or whose type differs, ConfigError for rules of unknown
    elements and for columns whose names clash, ParadoxError for a label used as data, QualityError where a floor's
    policy is fail, ReplayError where something pinned is missing.
    """
    elements = list(model.elements.values())
    _refuse_labels_as_data(labels, elements)
    _refuse_unsigned(labels)
    resolver = SourceResolver(
        labels, index, rules or {}, confidence or {}, pinned, paged=paged, more=more, back_to=back_to or {}
    )
    services, global_sources = resolver.resolve(elements)
    tasks = _tasks_of(labels, model, services, tasks)
    _check_first_and_last(global_sources, labels)
    plan = GenerationPlan(
        labels=labels,
        model=bind_for_tasks(model, labels.context, labels.items, tasks),
        features=tuple(model.features),
        from_services=frozenset(_from_services(model)),
        services=tuple(services),
        globals=tuple(global_sources),
        storage_uri=storage_uri,
        spread=spread,
        notes=(*resolver.notes, *_costs(services, labels)),
        tasks=tasks,
        vectors=model.vectors,
    )
    _refuse_name_clashes(plan)
    return plan


def _tasks_of(
    labels: Labels, model: FeatureModel, services: Sequence[ServiceSource], tasks: TaskSet | None
) -> TaskSet | None:
    """Return the tasks with the features that each cannot have, by the keys of services too.

    Raises ConfigError for other tasks than those of the label data, and for encoders that do not fit them.
    """
    existing = labels.tasks
    if tasks is not None and (existing is None or _variables(tasks) != _variables(existing)):
        merged = "none" if existing is None else ", ".join(existing.names)
        raise ConfigError.because(
            f"label data '{labels.labels_id}' is of other tasks ({merged}) than {', '.join(tasks.names)}, or of other "
            "variables",
            "make label data for these tasks",
        )
    if existing is None:
        return None
    keys = {source.element.name: [key.name for key in source.service.key] for source in services}
    found = with_impossible_features(tasks or existing, model, keys)
    if tasks is not None:  # otherwise encoders are only tried
        require_features(found, model.features)
    return found


def _variables(tasks: TaskSet) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(task.name, task.context, task.items) for task in tasks.tasks]


def _refuse_labels_as_data(labels: Labels, elements: Sequence[DataKey]) -> None:
    """Raise ParadoxError for an element named like a label column: most likely the label itself, captured as data."""
    for element in elements:
        if element.name in labels.outcome_columns:
            raise ParadoxError.because(
                f"an encoder reads '{element.name}' as data, which is a column of the label's outcome",
                "no feature may know its label: remove it from the encoder, or rename the element",
            )


def _refuse_unsigned(labels: Labels) -> None:
    """Raise DataKeyError for unsigned integers, as in old label data: Delta tables would show them as signed."""
    unsigned = [key for key in (*labels.context, *labels.items) if pa.types.is_unsigned_integer(key.type)]
    if unsigned:
        raise DataKeyError.because(
            f"label data '{labels.labels_id}' holds unsigned integers, which Delta tables do not have: "
            + ", ".join(f"{key.name}: {key.type}" for key in unsigned),
            "materialise it again under another id: they become signed ones",
        )


def _check_first_and_last(sources: Sequence[GlobalSource], labels: Labels) -> None:
    """Raise DataKeyError for another type of the versions that the labels' first and last times see.

    These are certainly read; bucket tasks check the others when a row sees them.
    """
    for source in sources:
        ends = (source.at(labels.earliest), source.at(labels.latest))
        source.check_types([version for version in ends if version is not None])


def _from_services(model: FeatureModel) -> Iterator[str]:
    for encoder in model.encoders:
        if any(key.kind is Kind.SERVICE_ELEMENT for key in encoder.data):
            yield from encoder.features


def _costs(services: list[ServiceSource], labels: Labels) -> Iterator[str]:
    """Note the snapshots that every task has to read whole."""
    for source in services:
        apart = [s for s in source.snapshots if s.bucket_variable != labels.bucket_variable]
        size = sum(file.bytes for snapshot in apart for file in snapshot.files)
        if apart and labels.buckets > 1:
            yield (
                f"{source.service.name}: {len(apart)} snapshots are not bucketed by '{labels.bucket_variable}', "
                f"so each of {labels.buckets} tasks reads all of their {size / 2**20:.1f} MiB"
            )


def _refuse_name_clashes(plan: GenerationPlan) -> None:
    spelled: dict[str, list[str]] = {}  # to Delta, names that differ only by case are equal
    for name in plan.schema.names:
        spelled.setdefault(name.casefold(), []).append(name)
    clashing = sorted({name for names in spelled.values() if len(names) > 1 for name in names})
    if clashing:
        raise ConfigError.because(
            f"the feature set would have several columns named {', '.join(clashing)}",
            "rename the feature or the variable",
        )
