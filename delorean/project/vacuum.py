"""Removes what nobody can miss: what died half-way, and old versions that no recorded run refers to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from delorean.experiment.record import recorded_runs
from delorean.experiment.record_files import FOLDER as RECORDS
from delorean.experiment.record_files import BrokenRecord
from delorean.feature_sets import table as feature_set
from delorean.feature_sets.kept_versions import KeptVersions, kept_versions
from delorean.generation.named_run import PLANS
from delorean.labels import FOLDER as LABELS
from delorean.labels import labels_id_of_manifest, load_labels, manifest_path
from schemas.errors import ConfigError, LabelError, StorageError
from snapshotter.capture import is_half_written, unpublished_files
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage, StoredFile

SAFE_AGE = timedelta(hours=1)
_NEVER = "not published: what wrote it died, another was faster, or it was withdrawn"
_ENDED = "plans of runs that ended, or died, long ago"
_UNUSED = "nobody gave it a name, and no recorded run or feature set refers to it"


@dataclass(frozen=True)
class Removal:
    """Files that go together.

    what: they are; why: nobody can miss them
    files: in the order in which they are deleted
    """

    what: str
    why: str
    files: tuple[StoredFile, ...]

    def row(self) -> dict[str, Any]:
        """Show it as a table's row."""
        size = sum(file.bytes for file in self.files)
        return {"what": self.what, "files": len(self.files), "bytes": size, "why": self.why}


@dataclass(frozen=True)
class VacuumReport:
    """What a vacuum removed, or would.

    notes: what was left alone because nobody can tell what of it is needed
    """

    removals: tuple[Removal, ...]
    notes: tuple[str, ...]
    dry_run: bool

    @property
    def paths(self) -> list[str]:
        """The files, relative to the storage's root, in the order in which they are deleted."""
        return [file.path for removal in self.removals for file in removal.files]


@dataclass
class _Pins:
    """What recorded runs refer to: label data with its files, and versions of feature sets.

    broken: records that cannot be read: they may refer to anything
    """

    labels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    versions: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    broken: list[BrokenRecord] = field(default_factory=list)

    @classmethod
    def of(cls, storage: Storage) -> _Pins:
        pins = cls()
        for run in recorded_runs(storage, pins.broken):
            pins.labels[run.labels.id] |= {file.path for file in run.labels.files}
            pins.versions[run.features.feature_set].add(run.features.version)
            for table in run.labels.tables.values():  # that labels were read from; it may be a feature set of ours
                if table.get("version") is not None:
                    pins.versions[_table_name(str(table["path"]))].add(table["version"])
        return pins


def _table_name(path: str) -> str:
    """Name the folder of a table; only a URI has parameters after a ?."""
    return PurePosixPath(path.partition("?")[0] if "://" in path else path).name


def vacuum(storage: Storage, index: SnapshotIndex, older_than: timedelta, *, dry_run: bool = False) -> VacuumReport:
    """Delete files that are older than a span and that nothing which is kept refers to.

    older_than: at least an hour, and longer than any job runs: a job's files are not published before it ends
    dry_run: delete nothing

    Kept are: all that the index has published; each run's record and what it refers to; of a feature set the newest
    version and those that were it within the span; label data that these were made from, or that somebody gave a name.

    Where a record cannot be read, all that it may refer to is kept, and the report says so.

    Raises ConfigError for a span that is too short.
    """
    if older_than < SAFE_AGE:
        raise ConfigError.because(
            f"older_than is {older_than}, expected at least {SAFE_AGE}: files of running jobs are not published yet"
        )
    latest = datetime.now(UTC) - older_than
    listed = [file for folder in (RECORDS, feature_set.FOLDER, LABELS) for file in storage.list(folder)]
    half = [file for file in listed if is_half_written(file.path) and file.modified_at < latest]
    files = [file for file in listed if not is_half_written(file.path)]
    pins = _Pins.of(storage)  # only now: what is recorded meanwhile refers to files that are young
    found = [
        kept_versions(storage, name, inside, pins.versions.get(name, set()), latest)
        for name, inside in _by_name(feature_set.FOLDER, files).items()
    ]
    labels = [
        _of_labels(labels_id, inside, storage, pins, found, latest) for labels_id, inside in _by_manifest(files).items()
    ]
    report = VacuumReport(
        (
            *_by_folder(unpublished_files(storage, index, latest)),
            *(removal for each in found for removal in _of_feature_set(each, pins)),
            *(removal for removal, _ in labels if removal is not None and not pins.broken),
            *_by_folder(half),
            *_of_plans(files, latest),
        ),
        (
            *(each.unknown for each in found if each.unknown),
            *(note for _, note in labels if note),
            *(f"label data and versions of feature sets were left alone: {record.problem}" for record in pins.broken),
            *(f"files of {record.name} were left alone: {record.problem}" for record in index.unreadable()),
        ),
        dry_run,
    )
    if not dry_run:
        storage.delete(report.paths)
    return report


def _of_feature_set(found: KeptVersions, pins: _Pins) -> Iterable[Removal]:
    yield from _by_folder(found.uncommitted)
    if pins.broken:
        return
    for version, (superseded_at, files) in sorted(found.superseded.items()):
        yield Removal(
            f"{feature_set.FOLDER}/{found.name}, version {version}",
            f"superseded on {superseded_at:%F}, and no recorded run refers to it",
            tuple(files),
        )


def _of_plans(files: Iterable[StoredFile], latest: datetime) -> Iterable[Removal]:
    old = tuple(file for file in files if file.path.startswith(f"{PLANS}/") and file.modified_at < latest)
    if old:
        yield Removal(PLANS, _ENDED, old)


def _of_labels(
    labels_id: str,
    files: Sequence[StoredFile],
    storage: Storage,
    pins: _Pins,
    feature_sets: Sequence[KeptVersions],
    latest: datetime,
) -> tuple[Removal | None, str | None]:
    """Give what of label data can go, and why it is left alone if nobody can tell."""
    manifest = manifest_path(labels_id)
    needed = {manifest, *(path for paths in pins.labels.values() for path in paths)}
    whole = f"{LABELS}/{labels_id}"
    if any(file.path == manifest for file in files):
        try:
            labels = load_labels(labels_id, storage)
        except (LabelError, StorageError) as error:
            return None, f"{whole} was left alone: {error}"
        needed |= {file.path for file in labels.files}
        referred = labels_id in pins.labels or any(each.unknown or labels_id in each.labels for each in feature_sets)
        if not labels.named and not referred and all(file.modified_at < latest for file in files):
            inner = sorted(files, key=lambda file: file.path != manifest)  # first what makes the others visible
            return Removal(whole, _UNUSED, tuple(inner)), None
    dead = [file for file in files if file.path not in needed and file.modified_at < latest]
    return (Removal(whole, _NEVER, tuple(dead)) if dead else None), None


def _by_manifest(files: Iterable[StoredFile]) -> Mapping[str, list[StoredFile]]:
    """Sort the files of label data by the id in whose folder they lie; those of no manifest by their first folder."""
    inside = [file for file in files if file.path.startswith(f"{LABELS}/")]
    ids = {labels_id for file in inside if (labels_id := labels_id_of_manifest(file.path)) is not None}
    found: dict[str, list[StoredFile]] = defaultdict(list)
    for file in inside:
        folders = file.path.split("/")[1:-1]
        ways = ["/".join(folders[:depth]) for depth in range(len(folders), 0, -1)]
        if ways:
            found[next((way for way in ways if way in ids), ways[-1])].append(file)
    return found


def _by_name(folder: str, files: Iterable[StoredFile]) -> Mapping[str, list[StoredFile]]:
    """Sort files by the folder within a folder that they lie in."""
    found: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        first, name, *inside = file.path.split("/")
        if first == folder and inside:
            found[name].append(file)
    return found


def _by_folder(files: Iterable[StoredFile]) -> list[Removal]:
    """Gather files that were never published by where they lie."""
    found: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        found[str(PurePosixPath(file.path).parent)].append(file)
    return [Removal(folder, _NEVER, tuple(inside)) for folder, inside in found.items()]
