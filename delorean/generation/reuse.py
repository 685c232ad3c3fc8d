"""Which columns of a generation an earlier version of the feature set already has, so that they are copied."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

import msgspec

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.reusable import Computation, content_hash
from delorean.feature_sets.table import recent_records
from delorean.generation.generation_plan import EarlierVersion, GenerationPlan
from delorean.labels import Labels
from delorean.state.sources import GlobalSource, PinnedSources, ServiceSource
from delorean.tasks.task_model import TaskModel, bind_for_tasks
from delorean.tasks.task_set import TaskSet
from encoders.bound_model import BoundModel
from encoders.encoder import FeatureEncoder
from encoders.feature_model import FeatureModel
from schemas.errors import CorruptFileError, MissingFileError
from snapshotter.storage import Storage

# Plans again with all that a plan lists, and with snapshots of elements back to a moment, see `plan_generation`.
BackTo: TypeAlias = Callable[[PinnedSources, Mapping[str, datetime | None]], GenerationPlan]

_log = logging.getLogger(__name__)
_SEARCHED = 16  # versions: each search reads the log's latest commits one by one


def with_earlier(
    plan: GenerationPlan, back_to: BackTo, model: FeatureModel, storage: Storage, name: str
) -> GenerationPlan:
    """Let a plan copy from the version, among the latest ones, that has most of its features; see `copying`."""
    best, most = plan, 0
    made: dict[str, GenerationPlan] = {}  # versions of the same label data mostly listed the same

    def once(pinned: PinnedSources, rests: Mapping[str, datetime | None]) -> GenerationPlan:
        key = repr(sorted(rests.items()))
        if key not in made:
            made[key] = back_to(pinned, rests)
        return made[key]

    try:
        for record in recent_records(storage, name, _SEARCHED):
            found = copying(plan, once, model, record.feature_set.version, record.computation)
            earlier = found.earlier
            if earlier is not None and len(earlier.features) > most and _exists(storage, earlier):
                best, most = found, len(earlier.features)
            if most == len(plan.features):
                break
    except CorruptFileError as error:  # committing would fail with it, too: let that report it
        _log.warning("nothing is copied from earlier versions of '%s': %s", name, error)
    return best


def copying(
    plan: GenerationPlan, back_to: BackTo, model: FeatureModel, version: int, computation: Computation | None
) -> GenerationPlan:
    """Return the plan that copies what a version has; the plan itself if that is nothing.

    An encoder's features can be copied if the version has them from an encoder with the same fingerprint, from the same
    label data, and from the same sources of every element that it reads. Where the version listed older snapshots than
    the plan does yet, because rows needed them, the plan lists them too: with equal lists, no row needs older ones.
    """
    if computation is None or computation.labels != _labels_hash(plan.labels):
        return plan
    if not any(_has(computation, encoder, plan.tasks) for encoder in model.encoders):
        return plan
    further = {
        name: computation.rests[name]
        for name, rest in plan.pinned.rests.items()
        if name in computation.rests and _is_before(computation.rests[name], rest)
    }
    longer = back_to(plan.pinned, further) if further else plan
    earlier = copyable(longer, model, version, computation)
    return plan if earlier is None else replace(longer, earlier=earlier)


def _is_before(rest: datetime | None, other: datetime) -> bool:
    return rest is None or rest < other


def computation_of(plan: GenerationPlan, model: FeatureModel, results: Sequence[BucketResult]) -> Computation:
    """Describe a generation for later ones to copy from."""
    return Computation(
        labels=_labels_hash(plan.labels),
        elements=_element_hashes(plan),
        rests={source.element.name: source.rest for source in plan.services},
        services=tuple(source.element.name for source in plan.services),
        encoders={_computed_as(encoder, plan.tasks): tuple(encoder.features) for encoder in model.encoders},
        spread=msgspec.to_builtins(plan.spread),
        beyond=sum(result.spread.beyond for result in results),
        buckets=tuple(replace(result, seconds={}, not_copied="") for result in results),
    )


def copied_notes(plan: GenerationPlan, results: Sequence[BucketResult]) -> tuple[str, ...]:
    """Explain which buckets were computed although an earlier version has features of them."""
    reasons = [result.not_copied for result in results if result.not_copied]
    if plan.earlier is None or not reasons:
        return ()
    return (
        f"{len(reasons)} of {len(results)} buckets were computed whole, not copied from version "
        f"{plan.earlier.version}: {reasons[0]}",
    )


def copied_lineage(plan: GenerationPlan, results: Sequence[BucketResult]) -> dict[str, object]:
    """Return the version and its features that were copied; nothing if none were."""
    if plan.earlier is None or all(result.not_copied for result in results):
        return {}
    features = [name for name in plan.features if name in plan.earlier.features]
    return {"copied": {"version": plan.earlier.version, "features": features}}


def copyable(
    plan: GenerationPlan, model: FeatureModel, version: int, computation: Computation | None
) -> EarlierVersion | None:
    """Return what a version has that the plan needs; None if that is nothing."""
    if computation is None or computation.labels != _labels_hash(plan.labels):
        return None
    elements = _element_hashes(plan)
    services = {source.element.name for source in plan.services}
    same_spread = msgspec.to_builtins(plan.spread) == computation.spread and _only(elements, services) == _only(
        computation.elements, computation.services
    )
    if not same_spread and computation.beyond:  # rows were dropped or emptied that now may stay, or the reverse
        return None

    def is_copied(encoder: FeatureEncoder) -> bool:
        unchanged = all(computation.elements.get(key.name) == elements[key.name] for key in encoder.data)
        return unchanged and _has(computation, encoder, plan.tasks)

    computed = [encoder for encoder in model.encoders if not is_copied(encoder)]
    copied = [encoder for encoder in model.encoders if encoder not in computed]
    if not copied:
        return None
    return EarlierVersion(
        version=version,
        features=frozenset(name for encoder in copied for name in encoder.features),
        read=frozenset(key.name for encoder in computed for key in encoder.data),
        unchanged=frozenset(name for name, each in elements.items() if computation.elements.get(name) == each),
        model=_bound(plan, FeatureModel(computed)) if computed else None,
        same_elements=elements == dict(computation.elements),
        same_spread=same_spread,
        buckets={result.file.bucket: result for result in computation.buckets},
    )


def _bound(plan: GenerationPlan, model: FeatureModel) -> BoundModel | TaskModel:
    return bind_for_tasks(model, plan.labels.context, plan.labels.items, plan.tasks)


def _has(computation: Computation, encoder: FeatureEncoder, tasks: TaskSet | None) -> bool:
    """Whether a version has an encoder's features."""
    return computation.encoders.get(_computed_as(encoder, tasks)) == tuple(encoder.features)


def _computed_as(encoder: FeatureEncoder, tasks: TaskSet | None) -> str:
    """Return what decides an encoder's values: its fingerprint, and with tasks which of them get what default."""
    if tasks is None:
        return encoder.fingerprint
    lacking = {name: [task.name for task in tasks.tasks if name in task.without] for name in encoder.features}
    defaults = {name: tasks.defaults[name] for name in encoder.features if lacking[name] and name in tasks.defaults}
    return content_hash([encoder.fingerprint, lacking, defaults])


def _exists(storage: Storage, earlier: EarlierVersion) -> bool:
    """Return whether a version still has its files, as far as one of them tells: a vacuum deletes them together."""
    try:
        storage.open_input(next(iter(earlier.buckets.values())).file.path).close()
    except MissingFileError:
        return False
    return True


def _labels_hash(labels: Labels) -> str:
    files = [(file.path, file.checksum, file.bucket) for file in labels.files]
    return content_hash([labels.labels_id, labels.schema.to_string(show_schema_metadata=False), sorted(files)])


def _element_hashes(plan: GenerationPlan) -> dict[str, str]:
    sources: list[ServiceSource | GlobalSource] = [*plan.services, *plan.globals]
    return {source.element.name: _source_hash(source) for source in sources}


def _source_hash(source: ServiceSource | GlobalSource) -> str:
    """Hash everything that decides what an element's source gives to a row. Runs and versions never change."""
    fields: list[object] = [source.element.to_json(), source.rule.to_json(), source.ids]
    if isinstance(source, ServiceSource):
        rest = None if source.rest is None else source.rest.isoformat()
        fields += [sorted(source.skipped), [key.to_json() for key in source.service.key], rest]
    return content_hash(fields)


def _only(hashes: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if name in names}
