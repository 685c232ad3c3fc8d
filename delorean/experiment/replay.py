"""Replays a run bit for bit: with its labels, snapshots, versions and encoders, whatever was published since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from delorean.experiment.record import RunRecord
from delorean.feature_sets.part_sources import part_records
from delorean.feature_sets.parts import Part, parts_of
from delorean.feature_sets.table import FeatureSet, lineage_of, table_uri
from delorean.generation import generate
from delorean.generation.parts import PartSettings, PartToCompute, generate_parts
from delorean.labels import Labels, find_labels, load_labels
from delorean.labels.rebucket import rebucket
from delorean.state.sources import PinnedSources
from encoders import FeatureModel
from encoders.feature_model import LIBRARY
from schemas.errors import ConfigError, DeloreanError, LabelError, MissingFileError, ReplayError, StorageError
from schemas.plain_text import plain_text
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile, PublishedName, RecordKind
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage, require_plain_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, repr=False)
class Replay:
    """The result of replaying a run.

    differing: features whose values differ from the run's in any bit; `rows` where contexts, times, items or labels
        differ
    """

    record: RunRecord
    features: FeatureSet
    differing: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every value equals the run's."""
        return not self.differing

    def __repr__(self) -> str:
        """One line for people."""
        outcome = "every value is the run's, bit for bit"
        if not self.identical:
            outcome = f"differs in {', '.join(self.differing)}"
        return plain_text(f"replay of run {self.record.run_id}: {outcome}")


def replay(
    record: RunRecord,
    index: SnapshotIndex,
    storage: Storage,
    *,
    spark: SparkSession | None = None,
    buckets: int | None = None,
    into: str | None = None,
    modules: Sequence[str] = (LIBRARY,),
    progress: Progress | None = None,
) -> Replay:
    """Repeat a run and compare every value with the recorded one.

    spark: None: in this process, without a JVM
    buckets: another number of buckets than the run's; the values are the same
    into: the feature set to write, by default `<the run's>-replay`
    modules: that encoders may be imported from

    Raises ReplayError that names every input which is missing or has changed.
    """
    name = into or f"{record.features.feature_set}-replay"
    require_plain_name("feature set", name)
    _require_inputs(record, index, storage, modules)
    experiment = record.experiment
    if record.labels.parts:
        features = _replay_parts(record, index, storage, name, modules, buckets, spark, progress)
        return Replay(record, features, tuple(_differing(record, features)))
    model = FeatureModel.from_json(json.dumps(record.feature_model), modules)
    features = generate(
        _labels_in(buckets, record.labels.id, storage),
        model,
        index,
        storage,
        name,
        rules=experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        pinned=PinnedSources(record.snapshots, record.globals),
        experiment=record.experiment_id,
        tasks=experiment.task_set_of(model),
        recompute=True,  # a replay also proves that what the run copied is what computing gives
        spark=spark,
        progress=progress,
    )
    return Replay(record, features, tuple(_differing(record, features)))


def _replay_parts(
    record: RunRecord,
    index: SnapshotIndex,
    storage: Storage,
    name: str,
    modules: Sequence[str],
    buckets: int | None,
    spark: SparkSession | None,
    progress: Progress | None,
) -> FeatureSet:
    """Compute all parts of a run again, each from what it was computed from."""
    experiment = record.experiment
    model = FeatureModel.from_json(json.dumps(record.feature_model), modules)
    settings = PartSettings(
        model=model,
        index=index,
        storage=storage,
        name=name,
        rules=experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        experiment=record.experiment_id,
        tasks=experiment.task_set_of(model),
        spark=spark,
        progress=progress,
    )
    parts = []
    listed = _parts(record, storage)
    for part, made in zip(listed, part_records(_table(record, storage), listed), strict=True):
        labels = _labels_in(buckets, part.labels, storage)
        again = msgspec.structs.replace(part, labels=labels.labels_id, version=None)
        # Without rests: these sources and no others are read.
        pinned = PinnedSources(made.sources.snapshots, made.sources.globals)
        parts.append(PartToCompute(again, settings.plan(labels, pinned)))
    return generate_parts(settings, parts, None, {}, {})


def _table(record: RunRecord, storage: Storage) -> str:
    return table_uri(storage, record.features.feature_set)


def _parts(record: RunRecord, storage: Storage) -> tuple[Part, ...]:
    """Return the parts of the run's version. Raises ConfigError if its table or its log is gone."""
    return parts_of(lineage_of(_table(record, storage), record.features.version)) if record.labels.parts else ()


def _labels_in(buckets: int | None, labels_id: str, storage: Storage) -> Labels:
    labels = load_labels(labels_id, storage)
    return labels if buckets in (None, labels.buckets) else rebucket(labels, buckets, storage)


def _differing(record: RunRecord, features: FeatureSet) -> Iterator[str]:
    before, now = record.features.digest, features.digest
    if before.keys != now.keys:
        yield "rows"
    yield from (name for name in before.features if before.features[name] != now.features.get(name))


def _require_inputs(record: RunRecord, index: SnapshotIndex, storage: Storage, modules: Sequence[str]) -> None:
    """Check everything that the run read, so that one error names all that is missing."""
    problems = [
        *_label_problems(record, storage),
        *_source_problems(record, index, storage),
        *_encoder_problems(record, modules),
    ]
    if problems:
        raise ReplayError.because(
            f"run '{record.run_id}' cannot be replayed: " + "; ".join(problems),
            "restore what is missing from a copy; `encoders` in delorean.toml names the modules of encoders",
        )


def _part_problems(part: Part, storage: Storage) -> Iterator[str]:
    labels = find_labels(part.labels, storage)
    if labels is None:
        yield f"label data '{part.labels}' of a part is gone"
    else:
        yield from _missing_files(f"label data '{part.labels}' of a part", labels.files, storage)


def _source_problems(record: RunRecord, index: SnapshotIndex, storage: Storage) -> Iterator[str]:
    """Check the sources of all parts, and the label data of the earlier ones, which the record itself does not have."""
    try:
        parts = _parts(record, storage)
        sources = [part.sources for part in part_records(_table(record, storage), parts)]
    except (ConfigError, ReplayError, StorageError) as error:
        yield str(error).partition(" → ")[0]
        return
    for part in parts[:-1]:
        yield from _part_problems(part, storage)
    sources = sources or [PinnedSources(record.snapshots, record.globals)]
    snapshots = {name for each in sources for name in each.snapshots}
    versions = {name for each in sources for name in each.globals}
    whole = replace(
        record,
        snapshots={name: _ids(each.snapshots.get(name, ()) for each in sources) for name in snapshots},
        globals={name: _ids(each.globals.get(name, ()) for each in sources) for name in versions},
    )
    yield from _snapshot_problems(whole, index, storage)
    yield from _version_problems(whole, index, storage)


def _ids(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id_ for ids in lists for id_ in ids))


def _label_problems(record: RunRecord, storage: Storage) -> Iterator[str]:
    try:
        labels = find_labels(record.labels.id, storage)
    except LabelError as error:
        yield str(error).partition(" → ")[0]
        return
    if labels is None:
        yield f"label data '{record.labels.id}' is gone"
        return
    if _checksums(labels.files) != _checksums(record.labels.files):
        yield f"label data '{record.labels.id}' has changed"
    yield from _missing_files(f"label data '{record.labels.id}'", record.labels.files, storage)


def _snapshot_problems(record: RunRecord, index: SnapshotIndex, storage: Storage) -> Iterator[str]:
    runs = index.runs_by_id({run_id for ids in record.snapshots.values() for run_id in ids})
    published = {(run_id, s.service.element.name): s for run_id, run in runs.items() for s in run.services}
    for element, run_ids in record.snapshots.items():
        for run_id in run_ids:
            snapshot = published.get((run_id, element))
            if snapshot is None:
                name = PublishedName(RecordKind.RUN, run_id)
                yield f"snapshot run '{run_id}' of '{element}' {_why_missing(name, index)}"
            else:
                yield from _missing_files(f"snapshot run '{run_id}' of '{element}'", snapshot.files, storage)


def _version_problems(record: RunRecord, index: SnapshotIndex, storage: Storage) -> Iterator[str]:
    for element, versions in record.globals.items():
        for version_id in versions:
            version = index.global_version(element, version_id)
            if version is None:
                name = PublishedName(RecordKind.GLOBAL_VERSION, version_id, element)
                yield f"version '{version_id}' of '{element}' {_why_missing(name, index)}"
            else:
                yield from _missing_files(f"version '{version_id}' of '{element}'", version.files, storage)


def _why_missing(name: PublishedName, index: SnapshotIndex) -> str:
    withdrawn = next((each for each in index.withdrawals() if each.name == name), None)
    if withdrawn is None:
        return "is not in the index"
    return f"was withdrawn by {withdrawn.by}: {withdrawn.reason}"


def _missing_files(what: str, files: Sequence[DataFile], storage: Storage) -> Iterator[str]:
    missing = []
    for file in files:
        try:
            storage.open_input(file.path).close()
        except MissingFileError:
            missing.append(file.path)
    if missing:
        yield f"{what} lacks {len(missing)} of {len(files)} files, such as {missing[0]}"


def _encoder_problems(record: RunRecord, modules: Sequence[str]) -> Iterator[str]:
    for encoder in record.feature_model["encoders"]:
        alone = {**record.feature_model, "encoders": [encoder]}
        try:
            FeatureModel.from_json(json.dumps(alone), modules)
        except DeloreanError as error:
            yield str(error).partition(" → ")[0]


def _checksums(files: Sequence[DataFile]) -> dict[str, str]:
    return {file.path: file.checksum for file in files}
