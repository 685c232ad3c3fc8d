"""Feature sets: Delta tables whose files the workers write and the driver commits in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
from deltalake import DeltaTable

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.digest import FeatureDigest
from delorean.feature_sets.parts import PartRecord, with_version
from delorean.feature_sets.reusable import Computation
from delorean.feature_sets.stored_version import StoredVersion
from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.leaks.report import LeakReport
from delorean.state.adaptations import AdaptedType
from delorean.state.provenance import SpreadReport
from delorean.tasks.task_set import recorded_tasks
from schemas.errors import ConfigError, CorruptFileError, MissingFileError
from schemas.plain_text import plain_text
from schemas.strict_json import json_text
from snapshotter.records import from_micros
from snapshotter.storage import Storage
from snapshotter.storage.delta import USER_METADATA, commit_files, committed_once, delta_table
from snapshotter.storage.delta_log import commit_info
from snapshotter.storage.delta_version import DeltaVersion

FOLDER = "feature_sets"
LINEAGE = "delorean"
_RECORD = "delorean.made"


@dataclass(frozen=True, repr=False)
class FeatureSet(StoredVersion):
    """Generated features with labels: one version of a Delta table.

    uri: of the table, as deltalake, Spark, Polars and DuckDB open it
    lineage: its sources: label data, feature model, snapshot runs, versions of global elements
    absent: element → rows without it, of those whose task can have it
    spread: how far apart the captures behind a row lie
    dropped: label rows left out because their captures lie too far apart
    leaks: features that may be the label in disguise; None if no search was requested
    digest: of every value, independent of how rows are distributed over files
    seconds: step → seconds of work, summed over tasks
    adapted: which rows were served by values of other types than the encoders', with which fields' defaults
    labels: the labels' columns
    task_items: task → items of its rows; empty for label data of one use
    vectors: the widths of the features that are vectors
    """

    uri: str
    version: int
    features: tuple[str, ...]
    items: tuple[str, ...]
    context: tuple[str, ...]
    rows: int
    item_count: int
    absent: Mapping[str, int]
    spread: SpreadReport
    dropped: int
    leaks: LeakReport | None
    digest: FeatureDigest
    seconds: Mapping[str, float]
    lineage: Mapping[str, Any]
    notes: tuple[str, ...]
    adapted: tuple[AdaptedType, ...] = ()
    labels: tuple[str, ...] = (LABEL_COLUMN,)
    task_items: Mapping[str, int] = field(default_factory=dict)
    vectors: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(
            f"feature set {self.uri}, version {self.version}: "
            f"{self.rows:,} rows, {self.item_count:,} items, {len(self.features)} features"
        )

    @property
    def copied(self) -> str:
        """How many features were copied from which version, for people; empty if none were."""
        return copied_text(self.lineage, len(self.features))

    @property
    def impossible(self) -> list[dict[str, Any]]:
        """The features that tasks cannot have, each with its default and the number of items that have it."""
        tasks = recorded_tasks(self.lineage)
        if tasks is None:
            return []
        return [
            {
                "task": task.name,
                "feature": name,
                "default": tasks.defaults.get(name),
                "items": self.task_items.get(task.name, 0),
            }
            for task in tasks.tasks
            for name in task.without
        ]

    def files(self) -> DeltaVersion:
        """List the files of this version."""
        return DeltaVersion.of(open_table(self.uri, self.version), self.uri)


def copied_text(lineage: Mapping[str, Any], features: int) -> str:
    """Say how many features were copied from which version; empty if none were.

    >>> copied_text({"copied": {"version": 12, "features": ["listed", "rewatched"]}}, 7)
    '2 of 7 features copied from version 12'
    """
    copied = lineage.get("copied")
    return (
        ""
        if copied is None
        else f"{len(copied['features'])} of {features} features copied from version {copied['version']}"
    )


def table_uri(storage: Storage, name: str) -> str:
    """Return the URI of a feature set's Delta table."""
    return storage.uri_of(f"{FOLDER}/{name}")


class GenerationRecord(msgspec.Struct, frozen=True):
    """A generation's result and its request, see `NamedRun`. The names at rest are those of earlier releases.

    computation: None in records of earlier releases, and of versions in parts
    parts: the parts that this version computed
    """

    feature_set: FeatureSet
    request: Mapping[str, Any] = msgspec.field(name="wanted")
    computation: Computation | None = None
    parts: tuple[PartRecord, ...] = ()


def commit(
    storage: Storage,
    name: str,
    schema: pa.Schema,
    results: Sequence[BucketResult],
    record: GenerationRecord,
    run_id: str | None = None,
    append_to: int | None = None,
) -> FeatureSet:
    """Commit the files of all bucket tasks as a new version of a feature set, in one Delta transaction.

    record: its feature set has no version yet
    run_id: of runs with the same id only the first commits
    append_to: keep the files of this version, the newest; None: the version has no others

    Returns the feature set as it was committed. Raises StorageError if the storage fails, ConcurrentCommitError where
    another version is the newest.
    """
    feature_set = record.feature_set
    shortened = replace(feature_set, uri="", lineage={})
    version = commit_files(
        storage,
        f"{FOLDER}/{name}",
        schema,
        [result.file for result in results],
        {
            LINEAGE: json_text(feature_set.lineage),
            USER_METADATA: feature_set.lineage.get("experiment") or "",
            _RECORD: msgspec.json.encode(msgspec.structs.replace(record, feature_set=shortened)).decode(),
        },
        {result.file.path: _statistics(result) for result in results},
        once=run_id,
        append_to=append_to,
    )
    committed = None if run_id is None else find_committed(storage, name, run_id)
    if committed is not None:
        return committed.feature_set
    return replace(feature_set, version=version, lineage=with_version(feature_set.lineage, version))


def find_committed(storage: Storage, name: str, run_id: str) -> GenerationRecord | None:
    """Return what the run with an id committed to a feature set; None where no such run has committed."""
    uri = table_uri(storage, name)
    version = committed_once(uri, run_id)
    if version is None:
        return None
    record = find_record(uri, version)
    if record is None:
        raise CorruptFileError.because(
            f"the log of the Delta table at {uri} has no record of version {version}, which run '{run_id}' committed",
            "restore its folder _delta_log from a copy, or use another run id",
        )
    return record


def load_feature_set(storage: Storage, name: str, version: int | None = None) -> FeatureSet:
    """Return a feature set as it was committed. version: None: the newest.

    Raises ConfigError for one that does not exist, or that DeLorean did not generate.
    """
    uri = table_uri(storage, name)
    number = int(open_table(uri, version).version())
    record = find_record(uri, number)
    if record is None:
        raise ConfigError.because(
            f"version {number} of the table at {uri} was not generated by DeLorean", "generate it"
        )
    return record.feature_set


def recent_records(storage: Storage, name: str, most: int) -> Iterator[GenerationRecord]:
    """Yield what generations committed to a feature set, the newest first, among the latest `most` versions."""
    uri = table_uri(storage, name)
    try:
        newest = int(delta_table(uri).version())
    except MissingFileError:
        return
    for version in range(newest, max(-1, newest - most), -1):
        record = find_record(uri, version)
        if record is not None:
            yield record


def find_record(uri: str, version: int) -> GenerationRecord | None:
    """Read the record of a version; None where the log has none."""
    entry = commit_info(uri, version)
    if entry is None or _RECORD not in entry:
        return None
    record = msgspec.json.decode(entry[_RECORD], type=GenerationRecord)
    lineage = with_version(json.loads(entry[LINEAGE]), version)
    feature_set = replace(record.feature_set, uri=uri, version=version, lineage=lineage)
    return msgspec.structs.replace(record, feature_set=feature_set)


def open_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a feature set's table, None: the newest.

    Raises ConfigError, naming the tables beside it, CorruptFileError for a table whose log cannot be read.
    """
    try:
        return delta_table(uri, version)
    except MissingFileError as error:
        newest = str(error).partition(" → ")[2]
        if newest:
            raise ConfigError.because(f"there is no version {version} of the feature set at {uri}", newest) from error
        unknown = ConfigError.unknown("feature set", Path(urlsplit(uri).path).name, _beside(uri))
        hint = str(unknown).partition(" → ")[2]
        raise ConfigError.because(f"there is no feature set at {uri}", hint) from error


def lineage_of(uri: str, version: int | None = None) -> dict[str, Any]:
    """Return the lineage of a version of a feature set. Raises ConfigError for a table without one."""
    table = open_table(uri)
    entry = commit_info(uri, int(table.version()) if version is None else version)
    if entry is not None and LINEAGE in entry:
        return dict(with_version(json.loads(entry[LINEAGE]), int(entry["version"])))
    which = "" if version is None else f"version {version} of "
    raise ConfigError.because(
        f"{which}the table at {uri} has no lineage: it was not generated by DeLorean, or does not exist any more",
        f"its newest version is {table.version()}; generate it again",
    )


def _beside(uri: str) -> list[str]:
    """Return the names of the tables in the folder where a table should be, if it is a local folder."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return []
    return [log.parent.name for log in Path(unquote(parts.path)).parent.glob("*/_delta_log")]


def _statistics(result: BucketResult) -> dict[str, Any]:
    statistics: dict[str, Any] = {"nullCount": {TIME_COLUMN: 0}}
    if result.earliest is not None and result.latest is not None:
        statistics["minValues"] = {TIME_COLUMN: _text(result.earliest)}
        statistics["maxValues"] = {TIME_COLUMN: _text(result.latest)}
    return statistics


def _text(micros: int) -> str:
    return from_micros(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
