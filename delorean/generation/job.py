"""Generates the features of label data: plans, has the bucket tasks run, and commits what they wrote."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.digest import FeatureDigest
from delorean.feature_sets.table import FOLDER, FeatureSet, Made, commit, table_uri
from delorean.generation.named_run import NamedRun
from delorean.generation.plan import GenerationPlan, plan_generation
from delorean.generation.runners import in_process, over_spark
from delorean.generation.unseen import rows_before_state
from delorean.labels import Labels
from delorean.leaks import LabelReport, LeakReport, LeakThresholds, check_labels, detect_leaks, sample_of
from delorean.state.provenance import SpreadReport
from delorean.state.requirements import AsOf, ConfidenceFloor, SpreadLimit
from delorean.state.sources import Pinned, ServiceSource
from delorean.state.versions import GlobalSource
from encoders.feature_model import Encoders, FeatureModel
from schemas.errors import ConfigError, LabelError, ParadoxError, QualityError
from snapshotter.index import SnapshotIndex
from snapshotter.spark.progress import Progress, shown_progress
from snapshotter.storage import Storage, require_plain_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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
    pinned: Pinned | None = None,
    leaks: LeakThresholds | None = None,
    experiment: str | None = None,
    spec: Mapping[str, Any] | None = None,
    run_id: str | None = None,
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
    leaks: look for features that are the label in disguise, in a sample; None: do not
    experiment, spec: its id and all that it says, for the lineage
    run_id: run again under the same id, a generation that died reads what it read when it began, whatever was
        published since, and one that has ended is given as it is. None: each is one of its own
    spark: spreads the bucket tasks; None: this process runs them, without a JVM. Both give equal bytes
    progress: called with (what is generated, bucket tasks done, all); None: a bar in a notebook or at a prompt

    Rows that lack an element are kept: the encoders are told, and `FeatureSet.absent` counts them. Nothing is published
    when an error is raised: ParadoxError, also where `leaks` says fail, QualityError where another policy does, or what
    `plan_generation` refuses.
    """
    require_plain_name("feature set", name)
    if not isinstance(labels, Labels):
        raise LabelError.mistaken("labels", labels, "label data", "load_labels(…, storage) or materialise_labels(…)")
    if spark is not None and not hasattr(spark, "sparkContext"):
        raise ConfigError.mistaken("spark", spark, "a Spark session", "project.spark_session()")
    model = FeatureModel(model)
    wanted = msgspec.to_builtins(
        {
            "labels": labels.labels_id,
            "encoders": model.fingerprint,
            "rules": [rules, confidence, spread],
            "leaks": leaks,
        }
    )
    run = None if run_id is None else NamedRun(storage, name, run_id, wanted)
    if run is not None and (earlier := run.committed()) is not None:
        return earlier

    def planned(pinned: Pinned | None) -> GenerationPlan:
        return plan_generation(
            labels, model, index, storage.uri, rules, confidence=confidence, spread=spread, pinned=pinned
        )

    plan = planned(pinned if run is None else run.pinned(lambda: planned(pinned).pinned))
    if (note := rows_before_state(plan, storage)) is not None:
        plan = replace(plan, notes=(*plan.notes, note))
    label_report = None if leaks is None else check_labels(labels, storage, leaks)
    plan.model.warm_up()  # once here, so that workers find compiled code in the cache instead of all compiling at once
    with shown_progress(progress) as shown:
        report = partial(shown, f"features of {name}, buckets")
        results = _run(plan, f"{FOLDER}/{name}/{uuid.uuid4().hex[:12]}", spark, report)
    found = None
    if leaks is not None and label_report is not None:
        found = _look_for_leaks(plan, results, storage, leaks, label_report)
    lineage = {"experiment": experiment, "spec": spec, **_lineage(plan, model)}
    made = Made(_feature_set(plan, results, table_uri(storage, name), lineage, found), wanted)
    return commit(storage, name, plan.schema, results, made, run_id)


def _run(
    plan: GenerationPlan, folder: str, spark: SparkSession | None, report: Callable[[int, int], None]
) -> list[BucketResult]:
    """Run all bucket tasks and give what they wrote, bucket by bucket. Raises QualityError if no row is left."""
    results = in_process(plan, folder, report) if spark is None else over_spark(spark, plan, folder, report)
    if not any(result.file.rows for result in results):
        raise QualityError.because(
            "no row is left: the captures of every row lie further apart than the spread's limit", "widen the limit"
        )
    return sorted(results, key=lambda result: result.file.bucket)


def _feature_set(
    plan: GenerationPlan,
    results: Sequence[BucketResult],
    uri: str,
    lineage: Mapping[str, Any],
    leaks: LeakReport | None,
) -> FeatureSet:
    """Add up what the bucket tasks saw; it has no version yet."""
    rows = sum(result.file.rows for result in results)
    return FeatureSet(
        uri=uri,
        version=-1,
        features=plan.features,
        items=tuple(key.name for key in plan.labels.items),
        context=tuple(key.name for key in plan.labels.context),
        rows=rows,
        item_count=sum(result.items for result in results),
        absent={key.name: sum(result.absent[key.name] for result in results) for key in plan.elements},
        spread=SpreadReport.total(result.spread for result in results),
        dropped=plan.labels.contexts - rows,
        leaks=leaks,
        digest=sum((result.digest for result in results), FeatureDigest.empty(plan.features)),
        seconds={step: sum(result.seconds[step] for result in results) for step in results[0].seconds},
        lineage=lineage,
        notes=plan.notes,
    )


def _look_for_leaks(
    plan: GenerationPlan,
    results: Sequence[BucketResult],
    storage: Storage,
    thresholds: LeakThresholds,
    label_report: LabelReport,
) -> LeakReport:
    """Measure a sample of what was written, before anybody can see it."""
    context = [key.name for key in plan.labels.context]
    items = sum(result.items for result in results)
    sample = sample_of(storage, [result.file for result in results], plan.features, context, items, thresholds)
    report = replace(detect_leaks(sample, thresholds), label_data=label_report)
    if report.suspicious and thresholds.policy == "fail":
        why = "; ".join(f"{found.feature} {found.why}" for found in report.findings if found.suspicious)
        raise ParadoxError.because(
            f"{report.verdict}: {why}",
            'find out how the feature knows; if it may, raise the thresholds or say policy = "warn"',
        )
    return report


def _lineage(plan: GenerationPlan, model: FeatureModel) -> dict[str, Any]:
    """Say what the features are made from, as far as it is known before they are."""
    sources: list[ServiceSource | GlobalSource] = [*plan.services, *plan.globals]
    return {
        "labels": plan.labels.labels_id,
        "outcome_columns": list(plan.labels.outcome_columns),
        "features": list(plan.features),
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
        "snapshots": {source.element.name: list(source.read) for source in plan.services},
        "globals": {source.element.name: list(source.read) for source in plan.globals},
        "rules": {source.element.name: source.rule.to_json() for source in sources},
        "confidence": {
            source.element.name: {snapshot.run_id: snapshot.confidence for snapshot in source.snapshots}
            for source in plan.services
        },
        "spread": None
        if plan.spread is None
        else {"limit_seconds": plan.spread.limit.total_seconds(), "beyond": plan.spread.beyond},
    }
