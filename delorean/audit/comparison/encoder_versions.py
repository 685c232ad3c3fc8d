"""Compares two versions of encoders over the same label rows and the same state, without writing a feature set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from delorean.audit.comparison.comparer import Comparer
from delorean.audit.comparison.result import FeatureComparison
from delorean.generation.bucket_task import bucket_features
from delorean.generation.generation_plan import GenerationPlan, plan_generation
from delorean.labels import Labels
from delorean.state.rules import AsOf, ConfidenceFloor
from delorean.state.source_resolver import SourceResolver
from delorean.state.sources import PinnedSources
from delorean.step_timer import StepTimer
from encoders.feature_model import Encoders, FeatureModel
from schemas.data_keys import by_name
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


def compare_encoders(
    before: Encoders,
    after: Encoders,
    labels: Labels,
    index: SnapshotIndex,
    storage: Storage,
    rules: Mapping[str, AsOf] | None = None,
    *,
    confidence: Mapping[str, ConfidenceFloor] | None = None,
    pinned: PinnedSources | None = None,
) -> FeatureComparison:
    """Compare two versions of encoders on identical snapshots: what is equal, and what changed by how much.

    before, after: feature models, encoders, or one encoder each
    rules, confidence, pinned: as `generate` takes them, for the elements of both sides

    The sources are resolved once for both, so both read the same whatever is published meanwhile. Memory: the state and
    the features of one bucket of labels. Raises what planning a generation and running an encoder raise.
    """
    models = [FeatureModel(before), FeatureModel(after)]
    plans = _plans(models, labels, index, storage, SourceResolver(labels, index, rules or {}, confidence or {}, pinned))
    comparer = Comparer(
        [key.name for key in labels.context],
        [key.name for key in labels.items],
        models[0].features,
        models[1].features,
        labels.label_names,
    )
    for file in labels.files:
        rows = read_parquet(storage, file).combine_chunks()
        old, new = (bucket_features(plan, rows, file.bucket, storage, StepTimer()).table for plan in plans)
        comparer.add(old, new)
    return comparer.result(*(f"encoders {model.fingerprint[:12]}" for model in models))


def _plans(
    models: Sequence[FeatureModel], labels: Labels, index: SnapshotIndex, storage: Storage, finder: SourceResolver
) -> list[GenerationPlan]:
    """Plan both over one set of sources."""
    elements = by_name(key for model in models for key in model.elements.values())
    services, global_sources = finder.resolve(list(elements.values()))
    return [
        replace(
            plan_generation(labels, model, index, storage.uri),
            services=tuple(source for source in services if source.element.name in model.elements),
            globals=tuple(source for source in global_sources if source.element.name in model.elements),
        )
        for model in models
    ]
