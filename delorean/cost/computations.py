"""What runs of experiments cost: from their records, and those of the versions of feature sets that they made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time

from delorean.cost.result import Amounts, CostEntry
from delorean.experiment.record import RunRecord
from delorean.experiment.record_files import FOLDER, BrokenRecord, read_record
from delorean.feature_sets.table import FOLDER as FEATURE_SETS
from delorean.feature_sets.table import GenerationRecord, find_record, table_uri
from delorean.labels import find_labels
from schemas.errors import LabelError, MissingFileError, ReplayError, StorageError, UnreadableRecordError
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.delta_log import actions_of


def run_entries(
    index: SnapshotIndex,
    storage: Storage,
    since: date,
    until: date,
    owners: Mapping[str, str],
    broken: list[BrokenRecord],
) -> Iterator[CostEntry]:
    """Yield what the runs that started on some days took. Only their records are read.

    Label data that several runs read counts as stored for the first of them.
    broken: receives records that cannot be read
    """
    sizes = _Sizes(index, storage)
    for record in sorted(_records(storage, since, until, broken), key=lambda record: record.started_at):
        owner = record.owner or owners.get(record.name, "")
        try:
            amounts = sizes.amounts(record)
        except (LabelError, StorageError, UnreadableRecordError) as error:
            broken.append(BrokenRecord(f"{FOLDER}/{record.experiment_id}/{record.run_id}.json", str(error)))
        else:
            yield CostEntry(record.started_at.astimezone(UTC).date(), record.name, owner, amounts)


def _records(storage: Storage, since: date, until: date, broken: list[BrokenRecord]) -> Iterator[RunRecord]:
    """Read the records of runs that started on some days. A record is written after its run has started."""
    first = datetime.combine(since, time(), UTC)
    for file in storage.list(FOLDER):
        if not file.path.endswith(".json") or file.modified_at < first:
            continue
        try:
            record = read_record(file.path, storage, RunRecord)
        except MissingFileError:  # it has been forgotten since it was listed
            continue
        except (ReplayError, StorageError) as error:
            broken.append(BrokenRecord(file.path, str(error)))
            continue
        if since <= record.started_at.astimezone(UTC).date() <= until:
            yield record


class _Sizes:
    """Measures runs, reading each published record once."""

    def __init__(self, index: SnapshotIndex, storage: Storage) -> None:
        self._index, self._storage = index, storage
        self._runs: dict[str, dict[str, int]] = {}
        self._versions: dict[tuple[str, str], int] = {}
        self._labels: set[str] = set()

    def amounts(self, record: RunRecord) -> Amounts:
        if not record.generated:
            return Amounts(read_bytes=self._committed(record), core_seconds=sum(record.seconds.values()))
        features = record.features
        made = find_record(table_uri(self._storage, features.feature_set), features.version)
        labels = self._label_sizes(record, made)
        new = {labels_id: size for labels_id, size in labels.items() if labels_id not in self._labels}
        self._labels |= new.keys()
        return Amounts(
            stored_bytes=sum(new.values()) + self._committed(record),
            read_bytes=sum(labels.values()) + self._sources(record),
            core_seconds=_seconds(record, made),
        )

    def _label_sizes(self, record: RunRecord, made: GenerationRecord | None) -> dict[str, int]:
        """Return the sizes of the label data that the run's version was computed from."""
        if not record.labels.parts or made is None:
            return {record.labels.id: _bytes(record.labels.files)}
        found = {part.labels: find_labels(part.labels, self._storage) for part in made.parts}
        return {labels_id: 0 if labels is None else _bytes(labels.files) for labels_id, labels in found.items()}

    def _committed(self, record: RunRecord) -> int:
        """Return the size of the files that the run's version added."""
        folder = f"{FEATURE_SETS}/{record.features.feature_set}"
        actions = actions_of(self._storage, folder, record.features.version) or []
        return sum(int(action["add"]["size"]) for action in actions if "add" in action)

    def _sources(self, record: RunRecord) -> int:
        unread = {run_id for ids in record.snapshots.values() for run_id in ids} - self._runs.keys()
        for run_id, run in self._index.runs_by_id(unread).items():
            self._runs[run_id] = {each.service.element.name: _bytes(each.files) for each in run.services}
        total = sum(self._runs.get(id_, {}).get(name, 0) for name, ids in record.snapshots.items() for id_ in ids)
        for element, ids in record.globals.items():
            total += sum(self._version(element, version_id) for version_id in ids)
        return total

    def _version(self, element: str, version_id: str) -> int:
        key = element, version_id
        if key not in self._versions:
            version = self._index.global_version(element, version_id)
            self._versions[key] = 0 if version is None else _bytes(version.files)
        return self._versions[key]


def _seconds(record: RunRecord, made: GenerationRecord | None) -> float:
    """Return the seconds of a run: of its generation those of all tasks, where the version records them."""
    others = sum(seconds for step, seconds in record.seconds.items() if step != "features")
    of_tasks = None if made is None else sum(made.feature_set.seconds.values())
    return others + (record.seconds.get("features", 0.0) if of_tasks is None else of_tasks)


def _bytes(files: tuple[DataFile, ...]) -> int:
    return sum(file.bytes for file in files)
