"""Generates a version of a feature set in parts, each from label data of its own, and commits them together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.parts import PARTS, Part, PartRecord
from delorean.feature_sets.table import FeatureSet, GenerationRecord, commit, open_table, table_uri
from delorean.generation.early_rows import note_early_rows
from delorean.generation.generation_plan import GenerationPlan, plan_generation
from delorean.generation.job import (
    added_items,
    feature_set_of,
    lineage_of_plan,
    no_row_left,
    run_buckets,
    search_leaks,
    with_adaptations,
    with_task_items,
)
from delorean.generation.reuse import computation_of, copying
from delorean.labels import Labels
from delorean.leaks import LeakThresholds
from delorean.leaks.variables import check_labels
from delorean.state.adaptations import added_up
from delorean.state.provenance import SpreadReport
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.state.sources import PinnedSources
from delorean.tasks.task_set import TaskSet
from encoders.feature_model import FeatureModel
from schemas.errors import ReplayError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage
from snapshotter.storage.delta_version import DeltaVersion

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class PartSettings:
    """What all parts are generated with: see the arguments of `generate`."""

    model: FeatureModel
    index: SnapshotIndex
    storage: Storage
    name: str
    rules: Mapping[str, AsOf]
    confidence: Mapping[str, ConfidenceFloor]
    spread: SpreadLimit | None = None
    leaks: LeakThresholds | None = None
    experiment: str | None = None
    spec: Mapping[str, Any] | None = None
    tasks: TaskSet | None = None
    spark: SparkSession | None = None
    progress: Progress | None = None

    def plan(
        self,
        labels: Labels,
        pinned: PinnedSources | None = None,
        *,
        more: Collection[str] = (),
        back_to: Mapping[str, datetime | None] | None = None,
    ) -> GenerationPlan:
        """Resolve the sources of a part, of services only the newest snapshots; see `plan_generation`."""
        plan = plan_generation(
            labels,
            self.model,
            self.index,
            self.storage.uri,
            self.rules,
            confidence=self.confidence,
            spread=self.spread,
            pinned=pinned,
            paged=True,
            more=more,
            back_to=back_to,
            tasks=self.tasks,
        )
        return note_early_rows(plan, self.storage)


@dataclass(frozen=True)
class PartToCompute:
    """A part, and what it was computed from before.

    plan: of its label data, with the sources to read
    before: the record of its earlier computation, to copy features from; None: compute everything
    before_version: of the feature set, which made it
    """

    part: Part
    plan: GenerationPlan
    before: PartRecord | None = None
    before_version: int = -1


@dataclass(frozen=True)
class KeptParts:
    """The parts of the newest version whose files stay.

    of: the version
    """

    of: FeatureSet
    parts: tuple[Part, ...]


def plan_again(settings: PartSettings, labels: Labels, before: PartRecord) -> GenerationPlan:
    """Plan a part with its sources as they were, and new ones for elements that it did not read.

    Where one of them is not published any more, all are resolved again.
    """
    fresh = settings.plan(labels)
    new, old = fresh.pinned, before.sources
    snapshots = {name: old.snapshots.get(name, ids) for name, ids in new.snapshots.items()}
    versions = {name: old.globals.get(name, ids) for name, ids in new.globals.items()}
    rests = {name: rest for name, rest in new.rests.items() if name not in old.snapshots}
    rests |= {name: rest for name, rest in old.rests.items() if name in snapshots}
    try:
        return settings.plan(labels, PinnedSources(snapshots, versions, rests))
    except ReplayError:
        return fresh


def generate_parts(
    settings: PartSettings,
    parts: Sequence[PartToCompute],
    kept: KeptParts | None,
    request: Mapping[str, Any],
    more_lineage: Mapping[str, Any],
    notes: Sequence[str] = (),
    run_id: str | None = None,
) -> FeatureSet:
    """Compute parts, and commit them beside the kept ones as one version.

    kept: None: the version has the computed parts only
    more_lineage: further fields

    Raises what `generate` raises; ConcurrentCommitError, with nothing changed, if there is a newer version than that
    of the kept parts.
    """
    computed = [_compute(settings, each) for each in parts]
    if computed and kept is None and not any(total.rows for _, _, total in computed):
        raise no_row_left()
    lineage: dict[str, Any] = {"experiment": settings.experiment, "spec": settings.spec, **more_lineage}
    if computed:
        total = _total([each for _, _, each in computed])
        again = [each for each, part in zip(computed, parts, strict=True) if part.before is not None]
        lineage |= {**lineage_of_plan(computed[-1][0], settings.model), **_copied(again)}
        leaks = _search_leaks(settings, computed)
        total = replace(total, leaks=leaks, notes=(*total.notes, *notes))
    else:
        assert kept is not None, "a version has at least one part"
        lineage = {**kept.of.lineage, **lineage}
        for name in ("copied", "adapted"):
            lineage.pop(name, None)
        total = replace(kept.of, seconds={}, notes=tuple(notes))
    if computed and kept is not None:
        total = _added(kept.of, total)
    all_parts = [*(() if kept is None else kept.parts), *(each.part for each in parts)]
    lineage[PARTS] = msgspec.to_builtins(all_parts)
    total = replace(total, uri=table_uri(settings.storage, settings.name), lineage=lineage)
    record = GenerationRecord(
        with_task_items(with_adaptations(total)),
        request,
        parts=tuple(_record(settings, plan, results) for plan, results, _ in computed),
    )
    schema = computed[-1][0].schema if computed else _schema_of(total)
    results = [result for _, each, _ in computed for result in each]
    append_to = None if kept is None else kept.of.version
    return commit(settings.storage, settings.name, schema, results, record, run_id, append_to)


_Computed = tuple[GenerationPlan, list[BucketResult], FeatureSet]


def _compute(settings: PartSettings, each: PartToCompute) -> _Computed:
    plan, labels = each.plan, each.plan.labels
    if each.before is not None:
        plan = copying(
            plan,
            lambda pins, rests: settings.plan(labels, pins, back_to=rests),
            settings.model,
            each.before_version,
            each.before.computation,
        )
    plan, results = run_buckets(
        plan,
        lambda pins, more: settings.plan(labels, pins, more=more),
        settings.name,
        settings.spark,
        settings.progress,
        may_be_empty=True,
    )
    return plan, results, feature_set_of(plan, results, "", {}, None)


def _search_leaks(settings: PartSettings, computed: Sequence[_Computed]) -> Any:
    """Search the computed parts; the label data of the last one is new."""
    if settings.leaks is None:
        return None
    plan = computed[-1][0]
    label_data = check_labels(plan.labels, settings.storage, settings.leaks)
    results = [result for _, each, _ in computed for result in each]
    return search_leaks(plan, results, settings.storage, settings.leaks, label_data)


def _record(settings: PartSettings, plan: GenerationPlan, results: Sequence[BucketResult]) -> PartRecord:
    confidence = {
        source.element.name: {snapshot.run_id: snapshot.confidence for snapshot in source.snapshots}
        for source in plan.services
    }
    return PartRecord(plan.labels.labels_id, plan.pinned, confidence, computation_of(plan, settings.model, results))


def _copied(again: Sequence[_Computed]) -> dict[str, Any]:
    """Name the features that all parts which were computed before have copied, and the newest of their versions."""
    if not again or any(plan.earlier is None for plan, _, _ in again):
        return {}
    earlier = [plan.earlier for plan, _, _ in again if plan.earlier is not None]
    features = frozenset.intersection(*(each.features for each in earlier))
    names = [name for name in again[-1][2].features if name in features]
    return {"copied": {"version": max(each.version for each in earlier), "features": names}} if names else {}


def _schema_of(feature_set: FeatureSet) -> pa.Schema:
    return DeltaVersion.of(open_table(feature_set.uri, feature_set.version), feature_set.uri).schema


def _total(feature_sets: Sequence[FeatureSet]) -> FeatureSet:
    total = feature_sets[0]
    for each in feature_sets[1:]:
        steps = dict.fromkeys([*total.seconds, *each.seconds])
        seconds = {step: total.seconds.get(step, 0.0) + each.seconds.get(step, 0.0) for step in steps}
        notes = tuple(dict.fromkeys([*total.notes, *each.notes]))
        total = replace(_added(total, each), seconds=seconds, notes=notes)
    return total


def _added(before: FeatureSet, new: FeatureSet) -> FeatureSet:
    """Add the counts of one to the other, which gives everything else."""
    return replace(
        new,
        rows=before.rows + new.rows,
        item_count=before.item_count + new.item_count,
        absent={name: count + before.absent.get(name, 0) for name, count in new.absent.items()},
        spread=SpreadReport.total([before.spread, new.spread]),
        dropped=before.dropped + new.dropped,
        digest=before.digest + new.digest,
        adapted=added_up([before.adapted, new.adapted]),
        task_items=added_items([before.task_items, new.task_items]),
    )
