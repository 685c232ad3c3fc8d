"""Repeats a run: the same labels, snapshots, versions and encoders, whatever was published since; bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delorean.experiment.record import RunRecord
from delorean.generation import FeatureSet, generate
from delorean.labels import find_labels, load_labels
from delorean.labels.rebucket import rebucket
from delorean.state.sources import Pinned
from encoders import FeatureModel
from encoders.feature_model import LIBRARY
from schemas.display import Displayed, Headline, Part, Table
from schemas.errors import DeloreanError, LabelError, MissingFileError, ReplayError
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile, PublishedName, RecordKind
from snapshotter.spark.progress import Progress
from snapshotter.storage import Storage, require_plain_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, repr=False)
class Replay(Displayed):
    """What came of repeating a run.

    differing: features whose values are not those of the run, bit for bit; `rows` where contexts, times, items or
        labels differ
    """

    record: RunRecord
    features: FeatureSet
    differing: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every value is that of the run."""
        return not self.differing

    def _headline(self) -> Headline:
        said = "every value is the run's, bit for bit" if self.identical else f"differs in {', '.join(self.differing)}"
        return Headline("replay", f"of run {self.record.run_id}", said)

    def _parts(self) -> Iterator[Part]:
        before, now = self.record.features, self.features
        yield Table(
            [
                {"": "run", "features": f"{before.feature_set}, version {before.version}", "rows": before.rows},
                {"": "replay", "features": f"{now.uri}, version {now.version}", "rows": now.rows},
            ]
        )


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
    """Repeat a run and compare every value with what it had.

    spark: None: in this process, without a JVM
    buckets: another partitioning than the run's; the values are the same
    into: the feature set to write, by default `<the run's>-replay`
    modules: where encoders may be imported from

    Raises ReplayError that names every input which is gone or was changed.
    """
    name = into or f"{record.features.feature_set}-replay"
    require_plain_name("feature set", name)
    _refuse_gone(record, index, storage, modules)
    labels = load_labels(record.labels.id, storage)
    if buckets is not None and buckets != labels.buckets:
        labels = rebucket(labels, buckets, storage)
    experiment = record.experiment
    features = generate(
        labels,
        FeatureModel.from_json(json.dumps(record.feature_model), modules),
        index,
        storage,
        name,
        rules=experiment.as_of,
        confidence=experiment.confidence,
        spread=experiment.spread,
        pinned=Pinned(record.snapshots, record.globals),
        experiment=record.experiment_id,
        spark=spark,
        progress=progress,
    )
    return Replay(record, features, tuple(_differing(record, features)))


def _differing(record: RunRecord, features: FeatureSet) -> Iterator[str]:
    before, now = record.features.digest, features.digest
    if before.keys != now.keys:
        yield "rows"
    yield from (name for name in before.features if before.features[name] != now.features.get(name))


def _refuse_gone(record: RunRecord, index: SnapshotIndex, storage: Storage, modules: Sequence[str]) -> None:
    """Look for everything the run read, so that one error names all that is missing."""
    gone = [
        *_gone_labels(record, storage),
        *_gone_snapshots(record, index, storage),
        *_gone_versions(record, index, storage),
        *_changed_encoders(record, modules),
    ]
    if gone:
        raise ReplayError.because(
            f"run '{record.run_id}' cannot be replayed: " + "; ".join(gone),
            "restore what is missing from a copy; modules of encoders are named by `encoders` in delorean.toml",
        )


def _gone_labels(record: RunRecord, storage: Storage) -> Iterator[str]:
    try:
        labels = find_labels(record.labels.id, storage)
    except LabelError as error:
        yield str(error).partition(" → ")[0]
        return
    if labels is None:
        yield f"label data '{record.labels.id}' is gone"
        return
    if _checksums(labels.files) != _checksums(record.labels.files):
        yield f"label data '{record.labels.id}' is not what it was"
    yield from _gone_files(f"label data '{record.labels.id}'", record.labels.files, storage)


def _gone_snapshots(record: RunRecord, index: SnapshotIndex, storage: Storage) -> Iterator[str]:
    runs = index.runs_by_id({run_id for ids in record.snapshots.values() for run_id in ids})
    published = {(run_id, s.service.element.name): s for run_id, run in runs.items() for s in run.services}
    for element, run_ids in record.snapshots.items():
        for run_id in run_ids:
            found = published.get((run_id, element))
            if found is None:
                name = PublishedName(RecordKind.RUN, run_id)
                yield f"snapshot run '{run_id}' of '{element}' {_why_gone(name, index)}"
            else:
                yield from _gone_files(f"snapshot run '{run_id}' of '{element}'", found.files, storage)


def _gone_versions(record: RunRecord, index: SnapshotIndex, storage: Storage) -> Iterator[str]:
    for element, versions in record.globals.items():
        for version_id in versions:
            version = index.global_version(element, version_id)
            if version is None:
                name = PublishedName(RecordKind.GLOBAL_VERSION, version_id, element)
                yield f"version '{version_id}' of '{element}' {_why_gone(name, index)}"
            else:
                yield from _gone_files(f"version '{version_id}' of '{element}'", version.files, storage)


def _why_gone(name: PublishedName, index: SnapshotIndex) -> str:
    withdrawn = next((each for each in index.withdrawals() if each.name == name), None)
    if withdrawn is None:
        return "is not in the index"
    return f"was withdrawn by {withdrawn.by}: {withdrawn.reason}"


def _gone_files(what: str, files: Sequence[DataFile], storage: Storage) -> Iterator[str]:
    missing = []
    for file in files:
        try:
            storage.open_input(file.path).close()
        except MissingFileError:
            missing.append(file.path)
    if missing:
        yield f"{what} lacks {len(missing)} of {len(files)} files, such as {missing[0]}"


def _changed_encoders(record: RunRecord, modules: Sequence[str]) -> Iterator[str]:
    for encoder in record.feature_model["encoders"]:
        alone = {**record.feature_model, "encoders": [encoder]}
        try:
            FeatureModel.from_json(json.dumps(alone), modules)
        except DeloreanError as error:
            yield str(error).partition(" → ")[0]


def _checksums(files: Sequence[DataFile]) -> dict[str, str]:
    return {file.path: file.checksum for file in files}
