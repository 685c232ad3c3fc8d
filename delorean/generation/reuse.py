"""Which columns of a generation an earlier version of the feature set already has, so that they are copied."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.reusable import Computation, content_hash
from delorean.feature_sets.table import recent_records
from delorean.generation.generation_plan import EarlierVersion, GenerationPlan
from delorean.labels import Labels
from delorean.state.sources import GlobalSource, ServiceSource
from encoders.encoder import FeatureEncoder
from encoders.feature_model import FeatureModel
from schemas.errors import CorruptFileError, MissingFileError
from snapshotter.storage import Storage

_log = logging.getLogger(__name__)
_SEARCHED = 16  # versions: each search reads the log's latest commits one by one


def with_earlier(plan: GenerationPlan, model: FeatureModel, storage: Storage, name: str) -> GenerationPlan:
    """Let a plan copy from the version, among the latest ones, that has most of its features.

    An encoder's features can be copied if the version has them from an encoder with the same fingerprint, from the same
    label data, and from the same sources of every element that it reads.
    """
    best: EarlierVersion | None = None
    try:
        for record in recent_records(storage, name, _SEARCHED):
            earlier = copyable(plan, model, record.feature_set.version, record.computation)
            if earlier is None or (best is not None and len(earlier.features) <= len(best.features)):
                continue
            if _exists(storage, earlier):
                best = earlier
            if best is earlier and len(best.features) == len(plan.features):
                break
    except CorruptFileError as error:  # committing would fail with it, too: let that report it
        _log.warning("nothing is copied from earlier versions of '%s': %s", name, error)
    return replace(plan, earlier=best)


def computation_of(plan: GenerationPlan, model: FeatureModel, results: Sequence[BucketResult]) -> Computation:
    """Describe a generation for later ones to copy from."""
    return Computation(
        labels=_labels_hash(plan.labels),
        elements=_element_hashes(plan),
        services=tuple(source.element.name for source in plan.services),
        encoders={encoder.fingerprint: tuple(encoder.features) for encoder in model.encoders},
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
        return unchanged and computation.encoders.get(encoder.fingerprint) == tuple(encoder.features)

    computed = [encoder for encoder in model.encoders if not is_copied(encoder)]
    copied = [encoder for encoder in model.encoders if encoder not in computed]
    if not copied:
        return None
    return EarlierVersion(
        version=version,
        features=frozenset(name for encoder in copied for name in encoder.features),
        read=frozenset(key.name for encoder in computed for key in encoder.data),
        unchanged=frozenset(name for name, each in elements.items() if computation.elements.get(name) == each),
        model=FeatureModel(computed).bind(plan.labels.context, plan.labels.items) if computed else None,
        same_elements=elements == dict(computation.elements),
        same_spread=same_spread,
        buckets={result.file.bucket: result for result in computation.buckets},
    )


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
        fields += [sorted(source.skipped), [key.to_json() for key in source.service.key]]
    return content_hash(fields)


def _only(hashes: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in hashes.items() if name in names}
