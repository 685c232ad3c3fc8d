"""The record of a run of an experiment: everything that the run resolved, so that it can be replayed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import msgspec

from delorean.experiment.record_files import FOLDER, BrokenRecord, read_record, readable_records, record_paths
from delorean.experiment.spec import ExperimentSpec
from delorean.feature_sets.digest import FeatureDigest
from schemas.errors import ReplayError
from schemas.plain_text import plain_text
from snapshotter.records import DataFile
from snapshotter.storage import Storage, require_plain_name

_FORGOTTEN = ".forgotten"


@dataclass(frozen=True)
class LabelsRecord:
    """The label data of a run.

    tables: name → its path as in the spec, its format and, of a Delta table, the version that was read
    parts: of a run for a day the number of parts, which the version's lineage lists; the other fields describe the last
        one, but `contexts` and `items` all of them. 0: one set of label data
    day: that a run was for, if it was in parts
    """

    id: str
    contexts: int
    items: int
    files: tuple[DataFile, ...]
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: int = 0
    day: str | None = None


@dataclass(frozen=True)
class FeaturesRecord:
    """The features of a run.

    feature_set, version: the Delta table's name in the storage, and its version
    digest: of all values of each feature, and of their contexts, times and items
    copied: how many features were copied from which version; empty if none were
    dropped: number of label rows left out because their captures were too far apart
    absent: element → number of rows without it, of those whose task can have it
    spread: range of spreads → rows, see `SpreadReport`
    impossible: the features that tasks cannot have, see `FeatureSet.impossible`
    """

    feature_set: str
    version: int
    rows: int
    items: int
    dropped: int
    absent: Mapping[str, int]
    spread: tuple[Mapping[str, Any], ...]
    digest: FeatureDigest
    copied: str = ""
    impossible: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TrainingRecord:
    """The model that a run trained.

    by: who trained it
    sizes: contexts, items and positives of each part of the split, and what was not read
    rounds: of boosting, None where the model has no such number
    package, digest: the folder of its package, and the SHA-256 of the checksums of its files; None where the model was
        only measured
    """

    model: str
    by: str
    sizes: Mapping[str, Mapping[str, int]]
    rounds: int | None = None
    package: str | None = None
    digest: str | None = None


@dataclass(frozen=True, repr=False)
class RunRecord:
    """One run of an experiment.

    run_id: the experiment's id and a number (`3f2a91c04b7e-2` is its second run) or the id that the caller chose
    experiment_id: the id of its spec
    spec: its content; `ExperimentSpec.from_json` reads it
    feature_model: the encoders with parameters and fingerprints; `FeatureModel.from_json` reads it
    snapshots: element → ids of the visible snapshot runs, in order of publication; confidence: of each of them
    globals: global element → ids of the visible versions
    leaks: the report of the leak detector
    metrics: model or baseline → part of the split → metrics; None where nothing was trained
    owner: of the experiment when it ran; empty: none was named
    training: the model that it trained; None where nothing was trained, and in records of earlier releases
    versions: of Python and of the libraries that results depend on
    seconds: step → wall time
    """

    run_id: str
    experiment_id: str
    name: str
    started_at: datetime
    spec: Mapping[str, Any]
    seed: int
    labels: LabelsRecord
    feature_model: Mapping[str, Any]
    snapshots: Mapping[str, tuple[str, ...]]
    confidence: Mapping[str, Mapping[str, float]]
    globals: Mapping[str, tuple[str, ...]]
    features: FeaturesRecord
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    leaks: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    owner: str = ""
    training: TrainingRecord | None = None

    @property
    def generated(self) -> bool:
        """Whether the run generated features; otherwise it trained on those of an earlier run."""
        return "features" in self.seconds

    @property
    def experiment(self) -> ExperimentSpec:
        """The spec of the run."""
        return ExperimentSpec.from_json(self.spec)

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """The encoders, by their names and features."""
        return {
            f"{encoder['encoder']} → {', '.join(encoder['features'])}": encoder
            for encoder in self.feature_model["encoders"]
        }

    @property
    def ndcg(self) -> float | None:
        """NDCG@10 of the model on the test part; None where nothing was trained."""
        return None if self.metrics is None else float(self.metrics["model"]["test"]["ndcg@10"])

    def __repr__(self) -> str:
        """One line for people."""
        features = self.features
        return plain_text(
            f"run of {self.name} {self.run_id}, {self.started_at:%Y-%m-%d %H:%M} UTC: "
            f"{features.rows:,} rows, {features.items:,} items, {len(features.digest.features)} features"
            f"{'' if self.ndcg is None else f', NDCG@10 {self.ndcg:.3f}'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Write the record as plain fields."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def save_run(record: RunRecord, storage: Storage, run_id: str | None = None) -> RunRecord:
    """Store a record, and return it as it is stored, with its id.

    run_id: None: the first free number of its experiment. Runs that end at the same time get different numbers and
        never overwrite each other; of runs with the same id the first is kept
    """
    if run_id is not None:
        path = _path(record.experiment_id, run_id)
        storage.create(path, msgspec.json.encode(replace(record, run_id=run_id)))
        return read_record(path, storage, RunRecord)
    listed = [PurePosixPath(file.path) for file in storage.list(f"{FOLDER}/{record.experiment_id}")]
    used = {path.stem for path in listed if path.suffix in (".json", _FORGOTTEN)}
    for number in itertools.count(len(used) + 1):
        numbered = replace(record, run_id=f"{record.experiment_id}-{number}")
        if storage.create(_path(record.experiment_id, numbered.run_id), msgspec.json.encode(numbered)):
            return numbered
    raise AssertionError("unreachable: the numbers are unbounded")


def named_run_id(experiment: ExperimentSpec, run_id: str) -> str:
    """Return the id of the record of a run whose id the caller chose: other experiments may use the same id."""
    require_plain_name("run id", run_id)
    return f"{experiment.id}-{run_id}"


def named_run(experiment: ExperimentSpec, run_id: str, storage: Storage) -> RunRecord | None:
    """Read the record of a run by the id that the caller chose, or return None.

    Raises ReplayError if it was forgotten.
    """
    path = _path(experiment.id, named_run_id(experiment, run_id))
    listed = {file.path for file in storage.list(f"{FOLDER}/{experiment.id}")}
    if path.removesuffix(".json") + _FORGOTTEN in listed:
        raise ReplayError.because(f"run '{run_id}' was forgotten", "choose another run id")
    return read_record(path, storage, RunRecord) if path in listed else None


def recorded_runs(storage: Storage, broken: list[BrokenRecord] | None = None) -> Iterator[RunRecord]:
    """Read all records, the latest started first. A record that cannot be read is logged and skipped.

    broken: receives those that cannot be read
    """
    records = readable_records(storage, RunRecord, [] if broken is None else broken)
    yield from sorted(records, key=lambda record: record.started_at, reverse=True)


def newest_runs(
    storage: Storage, limit: int, name: str | None = None, broken: list[BrokenRecord] | None = None
) -> list[RunRecord]:
    """Read the records that were written last, at most so many, and return the latest started first.

    name: only runs of the experiment with this name or id; broken: as for `recorded_runs`
    """
    records = readable_records(storage, RunRecord, [] if broken is None else broken)
    matching = (record for record in records if name in (None, record.name, record.experiment_id))
    return sorted(islice(matching, limit), key=lambda record: record.started_at, reverse=True)


def forget_run(run_id: str, storage: Storage) -> None:
    """Delete a run's record, so that a vacuum may delete what only it refers to. Its id is never used again.

    run_id: not shortened

    Raises ReplayError for a run that does not exist.
    """
    paths = {PurePosixPath(path).stem: path for path in record_paths(storage)}
    if run_id not in paths:
        raise ReplayError.unknown("experiment run", run_id, paths)
    storage.create(paths[run_id].removesuffix(".json") + _FORGOTTEN, b"")
    storage.delete([paths[run_id]])


def find_run(name: str, storage: Storage) -> RunRecord:
    """Read a run's record: by the run's id, or the latest of an experiment by its id or name. Ids may be shortened.

    Raises ReplayError for a name that matches none or several experiments, or whose record cannot be read.
    """
    whole = [path for path in record_paths(storage) if PurePosixPath(path).stem == name]
    if whole:
        return read_record(whole[0], storage, RunRecord)
    broken: list[BrokenRecord] = []
    runs = list(recorded_runs(storage, broken))
    matches = [run for run in runs if name in (run.experiment_id, run.name)]
    if matches:
        return matches[0]
    prefixed = [run for run in runs if run.run_id.startswith(name)] if name else []
    if len({run.experiment_id for run in prefixed}) == 1:
        return prefixed[0]
    if prefixed:
        raise ReplayError.because(
            f"'{name}' begins the ids of several experiments: {', '.join(sorted({run.run_id for run in prefixed}))}",
            "write more of the id",
        )
    if broken:  # the run may be one of these
        others = f"; {len(broken) - 1} more cannot be read" if len(broken) > 1 else ""
        raise ReplayError(f"no readable record matches '{name}', and {broken[0].problem}{others}")
    raise ReplayError.unknown("experiment run", name, [known for run in runs for known in (run.run_id, run.name)])


def _path(experiment_id: str, run_id: str) -> str:
    return f"{FOLDER}/{experiment_id}/{run_id}.json"
