"""The record of a run of an experiment: everything that the run resolved, so that it can be replayed."""

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
from schemas.display import Code, Displayed, Facts, Headline, Note, Part, Table
from schemas.drawing import Share
from schemas.errors import ReplayError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, require_plain_name

_FORGOTTEN = ".forgotten"


@dataclass(frozen=True)
class LabelsRecord:
    """The label data of a run.

    tables: name → its path as in the spec, its format and, of a Delta table, the version that was read
    """

    id: str
    contexts: int
    items: int
    files: tuple[DataFile, ...]
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeaturesRecord:
    """The features of a run.

    feature_set, version: the Delta table's name in the storage, and its version
    digest: of all values of each feature, and of their contexts, times and items
    dropped: number of label rows left out because their captures were too far apart
    absent: element → number of rows without it
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
class RunRecord(Displayed):
    """One run of an experiment.

    run_id: the experiment's id and a number (`3f2a91c04b7e-2` is its second run) or the id that the caller chose
    experiment_id: the id of its spec
    spec: its content; `ExperimentSpec.from_json` reads it
    feature_model: the encoders with parameters and fingerprints; `FeatureModel.from_json` reads it
    snapshots: element → ids of the visible snapshot runs, in order of publication; confidence: of each of them
    globals: global element → ids of the visible versions
    leaks: the report of the leak detector
    metrics: model or baseline → part of the split → metrics; None where nothing was trained
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

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Show what the run rests on, as tables' rows."""
        return {
            "encoders": [
                {"encoder": name, "parameters": encoder["parameters"], "fingerprint": encoder["fingerprint"][:12]}
                for name, encoder in self.encoders.items()
            ],
            "snapshots": [
                {"element": element, "run": run_id, "confidence": self.confidence[element][run_id]}
                for element, runs in self.snapshots.items()
                for run_id in runs
            ],
            "globals": [
                {"element": element, "version": version}
                for element, versions in self.globals.items()
                for version in versions
            ],
            "tables": [{"table": name, **table} for name, table in self.labels.tables.items()],
        }

    def _headline(self) -> Headline:
        features = self.features
        said = (
            f"{features.rows:,} rows, {features.items:,} items, {len(features.digest.features)} features"
            f"{'' if self.ndcg is None else f', NDCG@10 {self.ndcg:.3f}'}"
        )
        return Headline(f"run of {self.name}", f"{self.run_id}, {self.started_at:%Y-%m-%d %H:%M} UTC", said)

    def _parts(self) -> Iterator[Part]:
        features, took = self.features, sum(self.seconds.values())
        steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in self.seconds.items())
        yield Facts(
            {
                "feature set": f"{features.feature_set}, version {features.version}",
                "labels": self.labels.id,
                "rows dropped": features.dropped,
                "leaks": (self.leaks or {}).get("verdict", "nobody looked for leaks"),
                "seconds": f"{took:.1f}: {steps}",
                "digest": Code(features.digest.keys),
            }
        )
        yield Table([{"": who, **parts["test"]} for who, parts in (self.metrics or {}).items()], "on the test part")
        served = {name: f"{len(runs)} snapshots" for name, runs in self.snapshots.items()}
        served |= {name: f"{len(versions)} versions" for name, versions in self.globals.items()}
        yield from self.experiment.graph(served)
        yield Table(_absent(features), "rows without an element")
        yield Table(features.spread, "capture spread")
        yield Table(self._served(), "state that could be seen")
        tables = self.tables()
        encoders = [{**row, "parameters": row["parameters"] or None} for row in tables["encoders"]]
        yield Table(encoders, "encoders")
        yield Table(tables["tables"], "tables")
        yield from (Note(note) for note in self.notes)

    def _served(self) -> list[dict[str, Any]]:
        """Give a table's row for each element: what could be seen of it, the first and the last."""
        rows = []
        for element, seen in {**self.snapshots, **self.globals}.items():
            confidence = self.confidence.get(element, {}).values()
            rows.append(
                {
                    "element": element,
                    "runs_or_versions": len(seen),
                    "first": seen[0] if seen else None,
                    "last": seen[-1] if seen else None,
                    "lowest_confidence": Share(min(confidence), enough=0.9) if confidence else None,
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Write the record as plain fields."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def _absent(features: FeaturesRecord) -> list[dict[str, Any]]:
    return [{"element": name, "rows": rows} for name, rows in features.absent.items() if rows]


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
    """Read the record of a run whose id the caller chose; None if there is none.

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
