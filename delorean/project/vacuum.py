"""Deletes files that no published or recorded run needs: of jobs that died, and old versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from delorean.ab_tests.recorded import QUERIES
from delorean.experiment.record import recorded_runs
from delorean.experiment.record_files import FOLDER as RECORDS
from delorean.experiment.record_files import BrokenRecord
from delorean.feature_sets import table as feature_set
from delorean.feature_sets.kept_versions import KeptVersions, kept_versions
from delorean.generation.named_run import PLANS
from delorean.labels import FOLDER as LABELS
from delorean.labels import labels_id_of_manifest, load_labels, manifest_path
from delorean.prediction.table import FOLDER as PREDICTIONS
from delorean.registry.records import RegisteredVersion, UnreadableFile
from delorean.registry.registry import Registry
from delorean.registry.unused_files import unused_files
from schemas.errors import ConfigError, LabelError, StorageError
from snapshotter.capture import is_half_written, unpublished_files
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage, StoredFile
from snapshotter.storage.table_source import CATALOGUE

SAFE_AGE = timedelta(hours=1)
_UNPUBLISHED = "not published: its writer died, another writer was faster, or it was withdrawn"
_ENDED = "plans of runs that ended or died long ago"
_UNUSED = "it has no chosen name, and no recorded run or feature set refers to it"


@dataclass(frozen=True)
class Removal:
    """Files that are deleted together.

    what: the files have in common, such as their folder; why: they are not needed
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
    """What a vacuum deleted, or would delete.

    notes: what was kept because it is unknown which of it is needed
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
    """What recorded runs and registered packages refer to: label data with its files, and versions of feature sets.

    sources: versions of tables, by the name of their folder, that labels were read from
    anywhere: versions of tables that a catalogue names, which may be any feature set
    broken: records that cannot be read, which may refer to anything
    """

    labels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    versions: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    sources: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    anywhere: set[int] = field(default_factory=set)
    broken: list[BrokenRecord | UnreadableFile] = field(default_factory=list)

    @classmethod
    def of(cls, storage: Storage, versions: Sequence[RegisteredVersion], unreadable: Sequence[UnreadableFile]) -> _Pins:
        pins = cls(broken=list(unreadable))
        for version in versions:
            pins._add_lineage(version.lineage)
        broken: list[BrokenRecord] = []
        for run in recorded_runs(storage, broken):
            pins.labels[run.labels.id] |= {file.path for file in run.labels.files}
            pins.versions[run.features.feature_set].add(run.features.version)
            for table in run.labels.tables.values():  # a source of labels may be a feature set of this storage
                if table.get("version") is None or table.get("format", "delta") not in ("delta", CATALOGUE):
                    continue
                if table.get("format") == CATALOGUE:
                    pins.anywhere.add(table["version"])
                else:
                    pins.sources[_table_name(str(table["path"]))].add(table["version"])
        pins.broken += broken
        return pins

    def _add_lineage(self, lineage: Mapping[str, Any]) -> None:
        """Keep what a registered package was trained on, so that it can be compared and trained again."""
        labels, features = lineage.get("label_data") or {}, lineage.get("feature_set") or {}
        if "id" in labels:
            self.labels[str(labels["id"])] |= set(labels.get("files") or ())
        if "uri" in features and features.get("version") is not None:
            self.sources[_table_name(str(features["uri"]))].add(int(features["version"]))

    def of_table(self, path: str) -> tuple[set[int], set[int]]:
        """Return the versions of a table that are referred to, and those that may be, if it has them.

        A source is known by its folder's name alone: predictions may have that of the feature set that was meant.
        """
        folder, _, name = path.partition("/")
        own = self.versions.get(name, set()) if folder == feature_set.FOLDER else set()
        return own, self.sources.get(name, set()) | self.anywhere


def _table_name(path: str) -> str:
    """Return the name of a table's folder; only a URI has parameters after a ?."""
    return PurePosixPath(path.partition("?")[0] if "://" in path else path).name


def vacuum(storage: Storage, index: SnapshotIndex, older_than: timedelta, *, dry_run: bool = False) -> VacuumReport:
    """Delete files that are older than a time span and not referred to.

    older_than: at least an hour, and longer than any job runs: a job's files are not published before it ends
    dry_run: delete nothing

    Kept are: everything that the index has published; each run's record and what it refers to; of a feature set and of
    predictions, the newest version and those that were the newest within the span; label data that feature sets were
    generated from, and label data with a chosen name; registered packages and what they were trained on. Where a record
    cannot be read, everything that it may refer to is kept, and the report says so.

    Raises ConfigError for a span that is too short.
    """
    if older_than < SAFE_AGE:
        raise ConfigError.because(
            f"older_than is {older_than}, expected at least {SAFE_AGE}: files of running jobs are not published yet"
        )
    report = _report(storage, index, datetime.now(UTC) - older_than, dry_run)
    if not dry_run:
        storage.delete(report.paths)
    return report


def _report(storage: Storage, index: SnapshotIndex, latest: datetime, dry_run: bool) -> VacuumReport:
    """List what a vacuum deletes. latest: it deletes only files that were modified before this time."""
    listed = [file for folder in (RECORDS, feature_set.FOLDER, PREDICTIONS, LABELS) for file in storage.list(folder)]
    half = [file for file in listed if is_half_written(file.path) and file.modified_at < latest]
    files = [file for file in listed if not is_half_written(file.path)]
    unreadable: list[UnreadableFile] = []
    registered = Registry(storage).versions(unreadable)
    pins = _Pins.of(
        storage, registered, unreadable
    )  # after listing: what is recorded in between refers to younger files
    versions = [
        kept_versions(storage, path, inside, latest, *pins.of_table(path))
        for path, inside in (_tables(feature_set.FOLDER, files) | _tables(PREDICTIONS, files)).items()
    ]
    labels = [
        _of_labels(labels_id, inside, storage, pins, versions, latest)
        for labels_id, inside in _by_manifest(files).items()
    ]
    removals = (
        *_by_folder(unpublished_files(storage, index, latest)),
        *(removal for each in versions for removal in _of_table(each, pins)),
        *(removal for removal, _ in labels if removal is not None and not pins.broken),
        *_by_folder(half),
        *_of_plans(files, latest),
        *_by_folder(file for file in storage.list(QUERIES) if file.modified_at < latest),
        *(() if unreadable else _by_folder(unused_files(storage, registered, latest))),
    )
    notes = (
        *(each.unknown for each in versions if each.unknown),
        *(note for _, note in labels if note),
        *(f"label data and versions of feature sets were kept: {record.problem}" for record in pins.broken),
        *(f"files of {record.name} were kept: {record.problem}" for record in index.unreadable()),
    )
    return VacuumReport(removals, notes, dry_run)


def _of_table(versions: KeptVersions, pins: _Pins) -> Iterable[Removal]:
    yield from _by_folder(versions.uncommitted)
    if pins.broken:
        return
    for version, (superseded_at, files) in sorted(versions.superseded.items()):
        yield Removal(
            f"{versions.path}, version {version}",
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
    """Return what of label data can be deleted, and why it is kept if it is unknown what it needs."""
    manifest = manifest_path(labels_id)
    needed = {manifest, *(path for paths in pins.labels.values() for path in paths)}
    whole = f"{LABELS}/{labels_id}"
    if any(file.path == manifest for file in files):
        try:
            labels = load_labels(labels_id, storage)
        except (LabelError, StorageError) as error:
            return None, f"{whole} was kept: {error}"
        needed |= {file.path for file in labels.files}
        referred = labels_id in pins.labels or any(each.unknown or labels_id in each.labels for each in feature_sets)
        if not labels.named and not referred and all(file.modified_at < latest for file in files):
            inner = sorted(
                files, key=lambda file: file.path != manifest
            )  # first the manifest, which makes the others visible
            return Removal(whole, _UNUSED, tuple(inner)), None
    dead = [file for file in files if file.path not in needed and file.modified_at < latest]
    return (Removal(whole, _UNPUBLISHED, tuple(dead)) if dead else None), None


def _by_manifest(files: Iterable[StoredFile]) -> Mapping[str, list[StoredFile]]:
    """Group the files of label data by the id of their folder; those without a manifest by their first folder."""
    inside = [file for file in files if file.path.startswith(f"{LABELS}/")]
    ids = {labels_id for file in inside if (labels_id := labels_id_of_manifest(file.path)) is not None}
    groups: dict[str, list[StoredFile]] = defaultdict(list)
    for file in inside:
        folders = file.path.split("/")[1:-1]
        candidates = ["/".join(folders[:depth]) for depth in range(len(folders), 0, -1)]
        if candidates:
            groups[next((candidate for candidate in candidates if candidate in ids), candidates[-1])].append(file)
    return groups


def _tables(folder: str, files: Iterable[StoredFile]) -> dict[str, list[StoredFile]]:
    """Group files by the path of the table that they are in: a subfolder of a folder."""
    groups: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        first, name, *inside = file.path.split("/")
        if first == folder and inside:
            groups[f"{folder}/{name}"].append(file)
    return groups


def _by_folder(files: Iterable[StoredFile]) -> list[Removal]:
    """Group files that were never published by their folder."""
    groups: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        groups[str(PurePosixPath(file.path).parent)].append(file)
    return [Removal(folder, _UNPUBLISHED, tuple(inside)) for folder, inside in groups.items()]
