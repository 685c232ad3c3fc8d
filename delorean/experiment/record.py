"""What is kept of each run of an experiment: everything that was resolved when it ran, so that it can be repeated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
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
    """Label data as a run found it.

    tables: name → where the spec says it lies, its format and, of a Delta table, the version that was read
    """

    id: str
    contexts: int
    items: int
    files: tuple[DataFile, ...]
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeaturesRecord:
    """Features as a run made them.

    feature_set, version: the Delta table's name in the storage, and which version of it
    digest: of all values of each feature, and of whose they are
    dropped: label rows left out because their captures lay too far apart
    absent: element → rows without it
    spread: range of spreads → rows, see `SpreadReport`
    """

    feature_set: str
    version: int
    rows: int
    items: int
    dropped: int
    absent: Mapping[str, int]
    spread: tuple[Mapping[str, Any], ...]
    digest: FeatureDigest


@dataclass(frozen=True, repr=False)
class RunRecord:
    """One run of an experiment.

    run_id: the experiment's id and a number, `3f2a91c04b7e-2` is its second run, or an id that was given
    experiment_id: the hash of what its spec says
    spec: what it says; `ExperimentSpec.from_json` reads it
    feature_model: the encoders with parameters and fingerprints; `FeatureModel.from_json` reads it
    snapshots: element → ids of the runs that could be seen, in order of publication; confidence: of each of them
    globals: global element → ids of the versions that could be seen
    leaks: what the detector of leaks found
    metrics: who → part of the split → metrics; None where nothing was trained
    versions: of Python and the libraries that numbers depend on
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

    @property
    def experiment(self) -> ExperimentSpec:
        """The spec that ran."""
        return ExperimentSpec.from_json(self.spec)

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """The encoders, each under its name and the features it gives."""
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
    """Keep a record, and give it as it is kept, with its id.

    run_id: None: it is the first number of its experiment that is free. Runs that end at the same time get different
        numbers, and never overwrite each other; of those with one id the first is kept
    """
    if run_id is not None:
        path = _path(record.experiment_id, run_id)
        storage.create(path, msgspec.json.encode(replace(record, run_id=run_id)))
        return read_record(path, storage, RunRecord)
    listed = [PurePosixPath(file.path) for file in storage.list(f"{FOLDER}/{record.experiment_id}")]
    given = {path.stem for path in listed if path.suffix in (".json", _FORGOTTEN)}
    for number in itertools.count(len(given) + 1):
        numbered = replace(record, run_id=f"{record.experiment_id}-{number}")
        if storage.create(_path(record.experiment_id, numbered.run_id), msgspec.json.encode(numbered)):
            return numbered
    raise AssertionError("numbers never end")


def named_run_id(experiment: ExperimentSpec, run_id: str) -> str:
    """Give the id of a run's record that was given an id: another experiment's may be given the same."""
    require_plain_name("run id", run_id)
    return f"{experiment.id}-{run_id}"


def named_run(experiment: ExperimentSpec, run_id: str, storage: Storage) -> RunRecord | None:
    """Read the record of a run that was given an id; None: it has none. Raises ReplayError if it was forgotten."""
    path = _path(experiment.id, named_run_id(experiment, run_id))
    listed = {file.path for file in storage.list(f"{FOLDER}/{experiment.id}")}
    if path.removesuffix(".json") + _FORGOTTEN in listed:
        raise ReplayError.because(f"run '{run_id}' was forgotten", "give this one another run id")
    return read_record(path, storage, RunRecord) if path in listed else None


def recorded_runs(storage: Storage, broken: list[BrokenRecord] | None = None) -> Iterator[RunRecord]:
    """Read all records, the latest started first. One that cannot be read hides no other: it is logged.

    broken: receives those that cannot be read
    """
    records = readable_records(storage, RunRecord, [] if broken is None else broken)
    yield from sorted(records, key=lambda record: record.started_at, reverse=True)


def forget_run(run_id: str, storage: Storage) -> None:
    """Delete a run's record, so that a vacuum may take what only it refers to. Its id is never given again.

    run_id: as it is, whole. Raises ReplayError for one that is not there.
    """
    known = {PurePosixPath(path).stem: path for path in record_paths(storage)}
    if run_id not in known:
        raise ReplayError.unknown("experiment run", run_id, known)
    storage.create(known[run_id].removesuffix(".json") + _FORGOTTEN, b"")
    storage.delete([known[run_id]])


def find_run(name: str, storage: Storage) -> RunRecord:
    """Find a run: by its id, or the latest of an experiment by its id or name. Ids may be shortened.

    Raises ReplayError for one that is not there, that could be several, or whose record cannot be read.
    """
    whole = [path for path in record_paths(storage) if PurePosixPath(path).stem == name]
    if whole:
        return read_record(whole[0], storage, RunRecord)
    broken: list[BrokenRecord] = []
    runs = list(recorded_runs(storage, broken))
    matches = [run for run in runs if name in (run.experiment_id, run.name)]
    if matches:
        return matches[0]
    begun = [run for run in runs if run.run_id.startswith(name)] if name else []
    if len({run.experiment_id for run in begun}) == 1:
        return begun[0]
    if begun:
        raise ReplayError.because(
            f"'{name}' begins the ids of several experiments: {', '.join(sorted({run.run_id for run in begun}))}",
            "write more of it",
        )
    if broken:  # it may be one of these
        others = f"; {len(broken) - 1} more cannot be read" if len(broken) > 1 else ""
        raise ReplayError(f"no readable record is of '{name}', and {broken[0].problem}{others}")
    raise ReplayError.unknown("experiment run", name, [known for run in runs for known in (run.run_id, run.name)])


def _path(experiment_id: str, run_id: str) -> str:
    return f"{FOLDER}/{experiment_id}/{run_id}.json"
