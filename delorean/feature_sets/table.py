"""Feature sets: Delta tables whose files the workers wrote and the driver commits at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
from deltalake import DeltaTable

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.digest import FeatureDigest
from delorean.frames import Readable
from delorean.labels import TIME_COLUMN
from delorean.leaks import LeakReport
from delorean.state.provenance import SpreadReport
from schemas.errors import ConfigError, CorruptFileError, MissingFileError
from schemas.plain_text import plain_text
from schemas.strict_json import json_text
from snapshotter.records import from_micros
from snapshotter.storage import Storage
from snapshotter.storage.delta import SHOWN, commit_files, committed_once, delta_table
from snapshotter.storage.delta_log import commit_info, commits
from snapshotter.storage.delta_version import DeltaVersion

FOLDER = "feature_sets"
LINEAGE = "delorean"
_MADE = "delorean.made"


@dataclass(frozen=True, repr=False)
class FeatureSet(Readable):
    """Generated features with labels: one version of a Delta table.

    uri: of the table, as deltalake, Spark, Polars and DuckDB open it
    lineage: what it was made from: label data, feature model, snapshot runs, versions of global elements
    absent: element → rows that have none
    spread: how far apart the captures lie that rows are made from
    dropped: label rows left out because they lie too far apart
    leaks: which features may be the label in disguise; None where nobody looked
    digest: of every value, however the rows are spread over files
    seconds: step → seconds of work, summed over tasks
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

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(
            f"feature set {self.uri}, version {self.version}: "
            f"{self.rows:,} rows, {self.item_count:,} items, {len(self.features)} features"
        )

    def to_arrow(self) -> pa.Table:
        """Read it whole. Raises MissingFileError and CorruptFileError, naming the file."""
        return DeltaVersion.of(open_table(self.uri, self.version), self.uri).to_arrow()


def table_uri(storage: Storage, name: str) -> str:
    """Name the Delta table of a feature set."""
    return storage.uri_of(f"{FOLDER}/{name}")


@dataclass(frozen=True)
class Made:
    """What a generation has made, and what was wanted of it: see `NamedRun`."""

    feature_set: FeatureSet
    wanted: Mapping[str, Any]


def commit(
    storage: Storage,
    name: str,
    schema: pa.Schema,
    results: Sequence[BucketResult],
    made: Made,
    run_id: str | None = None,
) -> FeatureSet:
    """Make the files of all bucket tasks a new version of a feature set, in one Delta transaction.

    made: its feature set has no version yet
    run_id: of runs with the same id only the first commits

    Gives the feature set as it was committed. Raises StorageError if the storage refuses.
    """
    told = made.feature_set
    version = commit_files(
        storage,
        f"{FOLDER}/{name}",
        schema,
        [result.file for result in results],
        {
            LINEAGE: json_text(told.lineage),
            SHOWN: told.lineage.get("experiment") or "",
            _MADE: msgspec.json.encode(replace(made, feature_set=replace(told, uri="", lineage={}))).decode(),
        },
        {result.file.path: _statistics(result) for result in results},
        once=run_id,
    )
    found = None if run_id is None else made_by(storage, name, run_id)
    return replace(told, version=version) if found is None else found.feature_set


def made_by(storage: Storage, name: str, run_id: str) -> Made | None:
    """Give what the run of an id has made of a feature set; None where no such run has committed."""
    uri = table_uri(storage, name)
    version = committed_once(uri, run_id)
    if version is None:
        return None
    found = _made(uri, version)
    if found is None:
        raise CorruptFileError.because(
            f"the log of the Delta table at {uri} does not tell of version {version}, which run '{run_id}' has made",
            "restore its folder _delta_log from a copy, or take another run id",
        )
    return found


def load_feature_set(storage: Storage, name: str, version: int | None = None) -> FeatureSet:
    """Give a feature set as it was committed. version: None: the newest.

    Raises ConfigError for one that is not there, or that DeLorean did not generate.
    """
    uri = table_uri(storage, name)
    wanted = int(open_table(uri, version).version())
    found = _made(uri, wanted)
    if found is None:
        raise ConfigError.because(
            f"version {wanted} of the table at {uri} was not generated by DeLorean", "generate it"
        )
    return found.feature_set


def _made(uri: str, version: int) -> Made | None:
    """Read what was made with a version; None where the log does not tell."""
    entry = commit_info(uri, version)
    if entry is None or _MADE not in entry:
        return None
    found = msgspec.json.decode(entry[_MADE], type=Made)
    lineage = json.loads(entry[LINEAGE])
    return replace(found, feature_set=replace(found.feature_set, uri=uri, version=version, lineage=lineage))


def open_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a feature set's table, None: the newest.

    Raises ConfigError that names those beside it, CorruptFileError for one whose log cannot be read.
    """
    try:
        return delta_table(uri, version)
    except MissingFileError as error:
        newest = str(error).partition(" → ")[2]
        if newest:
            raise ConfigError.because(f"there is no version {version} of the feature set at {uri}", newest) from error
        known = str(ConfigError.unknown("feature set", Path(urlsplit(uri).path).name, _beside(uri))).partition(" → ")[2]
        raise ConfigError.because(f"there is no feature set at {uri}", known) from error


def lineage_of(uri: str, version: int | None = None) -> dict[str, Any]:
    """Give what a version of a feature set was made from. Raises ConfigError for a table that is not one of ours."""
    table = open_table(uri)
    entry = commit_info(uri, int(table.version()) if version is None else version)
    if entry is not None and LINEAGE in entry:
        found: dict[str, Any] = json.loads(entry[LINEAGE])
        return found
    which = "" if version is None else f"version {version} of "
    raise ConfigError.because(
        f"{which}the table at {uri} has no lineage: it was not generated by DeLorean, or is not there any more",
        f"its versions end with {table.version()}; generate it again",
    )


@dataclass(frozen=True)
class FeatureSetVersion:
    """A version as its table's log tells of it.

    experiment: the id of the experiment that it was generated for; None: for none, or by somebody else
    lineage: what it was made from; empty where another program wrote it
    """

    version: int
    committed_at: datetime
    experiment: str | None
    lineage: Mapping[str, Any]


def feature_sets(storage: Storage) -> list[str]:
    """Name the feature sets in a storage, sorted."""
    paths = [file.path.split("/") for file in storage.list(FOLDER)]
    return sorted({path[1] for path in paths if path[2:3] == ["_delta_log"]})


def versions_of(uri: str) -> list[FeatureSetVersion]:
    """Give all versions of a feature set, the newest first. Raises ConfigError for one that is not there."""
    return [
        FeatureSetVersion(
            int(entry["version"]),
            from_micros(int(entry["timestamp"]) * 1000),
            entry.get(SHOWN) or None,
            json.loads(entry.get(LINEAGE, "{}")),
        )
        for entry in commits(uri, int(open_table(uri).version()))
    ]


def _beside(uri: str) -> list[str]:
    """Name the tables in the folder where a table should be, as far as it is one of this machine's."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return []
    return [log.parent.name for log in Path(unquote(parts.path)).parent.glob("*/_delta_log")]


def _statistics(result: BucketResult) -> dict[str, Any]:
    known: dict[str, Any] = {"nullCount": {TIME_COLUMN: 0}}
    if result.earliest is not None and result.latest is not None:
        known["minValues"] = {TIME_COLUMN: _text(result.earliest)}
        known["maxValues"] = {TIME_COLUMN: _text(result.latest)}
    return known


def _text(micros: int) -> str:
    return from_micros(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
