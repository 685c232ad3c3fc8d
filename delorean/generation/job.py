"""Generates the features of label data: plans, runs the bucket tasks, and commits their files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.digest import FeatureDigest
from delorean.feature_sets.table import FOLDER, FeatureSet, GenerationRecord, commit, table_uri
from delorean.feature_sets.vector_widths import refuse_other_widths
from delorean.frames import require_spark
from delorean.generation.early_rows import note_early_rows
from delorean.generation.generation_plan import GenerationPlan, plan_generation
from delorean.generation.named_run import NamedRun
from delorean.generation.reuse import computation_of, copied_lineage, copied_notes, with_earlier
from delorean.generation.runners import run_here, run_on_spark
from delorean.labels import Labels
from delorean.leaks import LeakThresholds, detect_leaks
from delorean.leaks.report import LabelReport, LeakReport
from delorean.leaks.sample import sample_of
from delorean.leaks.scopes import combine_scopes, leak_scopes
from delorean.leaks.variables import check_labels
from delorean.state.adaptations import AdaptedType, adaptation_notes, adapted_types
from delorean.state.provenance import SpreadReport
from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.state.sources import PinnedSources
from delorean.tasks.task_set import TaskSet
from encoders.feature_model import Encoders, FeatureModel
from schemas.errors import LabelError, ParadoxError, QualityError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage, require_plain_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Plans again with all that a plan lists, and more snapshots of some elements.
Longer: TypeAlias = Callable[[PinnedSources, Collection[str]], GenerationPlan]


def generate(
    labels: Labels,
    model: Encoders,
    index: SnapshotIndex,
    storage: Storage,
    name: str,
    *,
    rules: Mapping[str, AsOf] | None = None,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
    spread: SpreadLimit | None = None,
    pinned: PinnedSources | None = None,
    leaks: LeakThresholds | None = None,
    experiment: str | None = None,
    spec: Mapping[str, Any] | None = None,
    tasks: TaskSet | None = None,
    run_id: str | None = None,
    recompute: bool = False,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Generate the features of a model for label data, each row from the state as of its own time.

    model: encoders, one or several, or a model of them
    name: of the feature set; generating again adds a version to it
    rules: element's name → as-of rule
    confidence: element's name → what the runs that serve it must have
    spread: how far apart the captures of one row may lie
    pinned: read these runs and versions and no others, as an earlier generation did
    leaks: search a sample for features that are the label in disguise; None: do not
    experiment, spec: the experiment's id and content, for the lineage
    tasks: of label data of several tasks, with their defaults and what others own; None: as the label data has them
    run_id: run again under the same id, a generation reads the sources of its first attempt, whatever was published
        since; one that has finished is returned as it is. None: a new generation each time
    recompute: compute everything, copying nothing from earlier versions
    spark: distributes the bucket tasks; None: this process runs them, without a JVM. Both produce equal bytes
    progress: called with (what is generated, bucket tasks done, all); None: a bar in a notebook or at a prompt

    Features that an earlier version of the feature set has, from the same encoders, label data and sources, are copied
    from it; the values are those that computing gives. Lineage, notes and `FeatureSet.copied` say what was copied.

    Rows that lack an element are kept: the encoders see it as absent, and `FeatureSet.absent` counts them. Nothing is
    published when an error is raised: ParadoxError, also where the policy of `leaks` is fail, QualityError where
    another policy is, or what `plan_generation` raises.
    """
    _check_arguments(labels, name, spark)
    model = FeatureModel(model).with_source()
    policies = {"rules": [rules, confidence, spread], "leaks": leaks}
    request = msgspec.to_builtins({"labels": labels.labels_id, "encoders": model.fingerprint, **policies})
    request |= {} if tasks is None else {"tasks": msgspec.to_builtins(tasks)}
    plan_with = partial(
        plan_generation, labels, model, index, storage.uri, rules, confidence=confidence, spread=spread, tasks=tasks
    )
    if run_id is not None:
        run = NamedRun(storage, name, run_id, request)
        if (committed := run.committed()) is not None:
            return committed
        pinned = run.sources(lambda: plan_with(pinned=pinned, paged=True).pinned)

    def planned(pins: PinnedSources | None, **further: Any) -> GenerationPlan:
        return note_early_rows(plan_with(pinned=pins, **further), storage)

    refuse_other_widths(storage, name, model.features, model.vectors)
    plan = planned(pinned, paged=True)
    if not recompute:
        plan = with_earlier(plan, lambda pins, rests: planned(pins, back_to=rests), model, storage, name)
    label_report = None if leaks is None else check_labels(labels, storage, leaks)
    plan, results = run_buckets(plan, lambda pins, more: planned(pins, more=more), name, spark, progress)
    leak_report = None
    if leaks is not None and label_report is not None:
        leak_report = search_leaks(plan, results, storage, leaks, label_report)
    lineage = {"experiment": experiment, "spec": spec, **lineage_of_plan(plan, model), **copied_lineage(plan, results)}
    found = feature_set_of(plan, results, table_uri(storage, name), lineage, leak_report)
    feature_set = with_task_items(with_adaptations(found))
    record = GenerationRecord(feature_set, request, computation_of(plan, model, results))
    return commit(storage, name, plan.schema, results, record, run_id)


def _check_arguments(labels: Labels, name: str, spark: SparkSession | None) -> None:
    require_plain_name("feature set", name)
    if not isinstance(labels, Labels):
        raise LabelError.mistaken("labels", labels, "label data", "load_labels(…, storage) or materialise_labels(…)")
    if spark is not None:
        require_spark(spark)


def run_buckets(
    plan: GenerationPlan,
    longer: Longer,
    name: str,
    spark: SparkSession | None,
    progress: Progress | None,
    *,
    may_be_empty: bool = False,
) -> tuple[GenerationPlan, list[BucketResult]]:
    """Run the bucket tasks and return the plan that lists all that they needed, and their results by bucket.

    longer: plans again with more snapshots of some elements. Buckets that are done stay so: no older snapshot could
        serve their rows
    name: of the feature set; the files are written to a new folder of it

    Raises QualityError if no row is left, unless that may be.
    """
    computed = plan.model if plan.earlier is None else plan.earlier.model
    if computed is not None:
        computed.warm_up()  # once here, so that workers load compiled code from the cache instead of all compiling it
    folder, what = f"{FOLDER}/{name}/{uuid.uuid4().hex[:12]}", f"features of {name}, buckets"
    results: list[BucketResult] = []
    files = plan.labels.files
    with shown_progress(progress) as shown:
        while files:
            report = partial(_report_more, shown, what, len(results))
            run = run_here if spark is None else partial(run_on_spark, spark)
            outcomes = run(plan, files, folder, report)
            results += [outcome.result for outcome in outcomes if outcome.result is not None]
            finished = {result.file.bucket for result in results}
            files = tuple(file for file in files if file.bucket not in finished)
            if files:
                more = {element for outcome in outcomes for element in outcome.unserved}
                # What is copied stays valid: only the lists of elements that are read now get longer.
                plan = replace(longer(plan.pinned, more), earlier=plan.earlier)
    if not may_be_empty and not any(result.file.rows for result in results):
        raise no_row_left()
    return plan, sorted(results, key=lambda result: result.file.bucket)


def _report_more(shown: Progress, what: str, before: int, done: int, total: int) -> None:
    """Report what is done of work of which some was done before."""
    shown(what, before + done, before + total)


def no_row_left() -> QualityError:
    """Return the error of a generation that dropped all rows."""
    return QualityError.because(
        "no row is left: the captures of every row lie further apart than the spread's limit", "widen the limit"
    )


def feature_set_of(
    plan: GenerationPlan,
    results: Sequence[BucketResult],
    uri: str,
    lineage: Mapping[str, Any],
    leaks: LeakReport | None,
) -> FeatureSet:
    """Add up the results of the bucket tasks; the feature set has no version yet."""
    rows = sum(result.file.rows for result in results)
    return FeatureSet(
        uri=uri,
        version=-1,
        features=plan.features,
        vectors=plan.vectors,
        items=tuple(key.name for key in plan.labels.items),
        context=tuple(key.name for key in plan.labels.context),
        labels=plan.labels.label_names,
        rows=rows,
        item_count=sum(result.items for result in results),
        absent={key.name: sum(result.absent[key.name] for result in results) for key in plan.elements},
        spread=SpreadReport.total(result.spread for result in results),
        dropped=plan.labels.contexts - rows,
        leaks=leaks,
        digest=sum((result.digest for result in results), FeatureDigest.empty(plan.features)),
        seconds=_seconds(results),
        lineage=lineage,
        notes=(*plan.notes, *copied_notes(plan, results)),
        adapted=_adapted(plan, results),
        task_items=added_items([result.task_items for result in results]),
    )


def with_adaptations(feature_set: FeatureSet) -> FeatureSet:
    """Add to the notes and the lineage which rows were served by values of other types than the encoders'."""
    adapted = feature_set.adapted
    if not adapted:
        return feature_set
    lineage = {**feature_set.lineage, "adapted": [msgspec.to_builtins(each) for each in adapted]}
    notes = (*feature_set.notes, *adaptation_notes(adapted, feature_set.rows))
    return replace(feature_set, lineage=lineage, notes=notes)


def with_task_items(feature_set: FeatureSet) -> FeatureSet:
    """Add the items of each task to the lineage, which has the tasks."""
    if not feature_set.task_items:
        return feature_set
    return replace(feature_set, lineage={**feature_set.lineage, "task_items": dict(feature_set.task_items)})


def added_items(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by task."""
    total: dict[str, int] = {}
    for each in counts:
        for task, items in each.items():
            total[task] = total.get(task, 0) + items
    return total


def _adapted(plan: GenerationPlan, results: Sequence[BucketResult]) -> tuple[AdaptedType, ...]:
    """Return which rows were served by values of other types than the encoders'."""
    return tuple(
        each
        for source in plan.sources
        for each in adapted_types(source.element, source.differing, (r.adapted[source.element.name] for r in results))
    )


def _seconds(results: Sequence[BucketResult]) -> dict[str, float]:
    steps = dict.fromkeys(step for result in results for step in result.seconds)
    return {step: sum(result.seconds.get(step, 0.0) for result in results) for step in steps}


def search_leaks(
    plan: GenerationPlan,
    results: Sequence[BucketResult],
    storage: Storage,
    thresholds: LeakThresholds,
    label_data: LabelReport,
) -> LeakReport:
    """Measure a sample of the files before they are published. Raises ParadoxError where the policy is fail."""
    context = [key.name for key in plan.labels.context]
    items = sum(result.items for result in results)
    of_tasks = added_items([result.task_items for result in results])
    files = [result.file for result in results]
    reports = {
        scope: detect_leaks(
            sample_of(storage, files, scope, items if scope.task is None else of_tasks.get(scope.task, 0), thresholds),
            thresholds,
        )
        for scope in leak_scopes(plan.labels.label_names, plan.features, context, plan.tasks)
    }
    report = replace(combine_scopes(reports, thresholds), label_data=label_data)
    _enforce(thresholds, report)
    return report


def _enforce(thresholds: LeakThresholds, report: LeakReport) -> None:
    if report.suspicious and thresholds.policy == "fail":
        reasons = "; ".join(f"{finding.feature} {finding.why}" for finding in report.findings if finding.suspicious)
        raise ParadoxError.because(
            f"{report.verdict}: {reasons}",
            'find out where the feature gets this from; if it may, raise the thresholds or set policy = "warn"',
        )


def lineage_of_plan(plan: GenerationPlan, model: FeatureModel) -> dict[str, Any]:
    """Return the sources and settings that the features are computed from."""
    return {
        "labels": plan.labels.labels_id,
        "outcome_columns": list(plan.labels.outcome_columns),
        "label_columns": list(plan.labels.label_names),
        "weighted": plan.labels.weighted,
        "kept": [column.to_json() for column in plan.labels.kept],
        "features": list(plan.features),
        **({"vectors": dict(plan.vectors)} if plan.vectors else {}),
        "feature_model": model.fingerprint,
        "context": [key.to_json() for key in plan.labels.context],
        "items": [key.to_json() for key in plan.labels.items],
        "encoders": [
            {
                **fields,
                "data": [key.name for key in encoder.data],
            }
            for fields, encoder in zip(json.loads(model.to_json())["encoders"], model.encoders, strict=True)
        ],
        "snapshots": {source.element.name: list(source.ids) for source in plan.services},
        "globals": {source.element.name: list(source.ids) for source in plan.globals},
        "rules": {source.element.name: source.rule.to_json() for source in plan.sources},
        "confidence": {
            source.element.name: {snapshot.run_id: snapshot.confidence for snapshot in source.snapshots}
            for source in plan.services
        },
        **({} if plan.tasks is None else {"tasks": msgspec.to_builtins(plan.tasks)}),
        "spread": None
        if plan.spread is None
        else {"limit_seconds": plan.spread.limit.total_seconds(), "beyond": plan.spread.beyond},
    }
