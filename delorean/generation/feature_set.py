"""Feature sets: Delta tables whose files the workers wrote and the driver commits at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from delorean.feature_digest import FeatureDigest
from delorean.generation.bucket_task import BucketResult
from delorean.generation.provenance import SpreadReport
from delorean.labels import TIME_COLUMN
from delorean.leaks import LeakReport
from delorean.readable import Readable
from schemas.errors import ConfigError, StorageError
from snapshotter.records import from_micros
from snapshotter.storage import Storage
from snapshotter.storage.delta import delta_table, plainly
from snapshotter.storage.delta_location import delta_location

FOLDER = "feature_sets"
_COMMITS = "delorean"


@dataclass(frozen=True, repr=False)
class FeatureSet(Readable):
    """Generated features with labels: one version of a Delta table.

    uri: of the table; `delta_location` turns it into what deltalake, Polars and DuckDB open it by
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
        """Say what it is in a line; its lineage alone would fill a page."""
        return (
            f"feature set {self.uri}, version {self.version}: {self.rows:,} rows, {self.item_count:,} items, "
            f"{len(self.features)} features"
        )

    def to_arrow(self) -> pa.Table:
        """Read it whole."""
        return delta_table(self.uri, self.version).to_pyarrow_table()


def table_uri(storage: Storage, name: str) -> str:
    """Name the Delta table of a feature set."""
    return storage.uri_of(f"{FOLDER}/{name}")


def commit(
    storage: Storage, name: str, schema: pa.Schema, results: Iterable[BucketResult], lineage: Mapping[str, Any]
) -> int:
    """Make the files of all bucket tasks a new version of a feature set, in one Delta transaction.

    Gives the version. Raises StorageError if another writer was faster.
    """
    uri = table_uri(storage, name)
    prefix = f"{FOLDER}/{name}/"
    now = int(datetime.now(UTC).timestamp() * 1000)
    actions = [
        AddAction(result.file.path.removeprefix(prefix), result.file.bytes, {}, now, True, _statistics(result))
        for result in results
    ]
    properties = CommitProperties(custom_metadata={_COMMITS: json.dumps(lineage)})
    try:
        try:
            table = delta_table(uri)
        except TableNotFoundError:
            plain, options = delta_location(uri)
            create_table_with_add_actions(
                *(plain, Schema.from_arrow(schema), actions, "error"),
                name=name,
                storage_options=options,
                commit_properties=properties,
            )
            return 0
        table.create_write_transaction([*actions], "overwrite", Schema.from_arrow(schema), commit_properties=properties)
    except (DeltaError, OSError) as error:
        raise StorageError.because(
            f"feature set '{name}' could not be committed: {plainly(error)}", "run it again"
        ) from error
    table.update_incremental()
    return int(table.version())


def open_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a feature set's table, None: the newest. Raises ConfigError that names those beside it."""
    try:
        return delta_table(uri, version)
    except (DeltaError, OSError) as error:
        what = "feature set" if version is None else f"version {version} of the feature set"
        known = str(ConfigError.unknown("feature set", Path(urlsplit(uri).path).name, _beside(uri))).partition(" → ")[2]
        raise ConfigError.because(f"there is no {what} at {uri}", known) from error


def lineage_of(uri: str, version: int | None = None) -> dict[str, Any]:
    """Give what a version of a feature set was made from. Raises ConfigError for a table that is not one of ours."""
    table = open_table(uri)  # the newest: of an older version deltalake counts the history wrongly
    for entry in table.history():
        if entry.get("version") == (table.version() if version is None else version) and _COMMITS in entry:
            found: dict[str, Any] = json.loads(entry[_COMMITS])
            return found
    which = "" if version is None else f"version {version} of "
    raise ConfigError.because(
        f"{which}the table at {uri} has no lineage: it was not generated by DeLorean, or is not there any more",
        f"its versions end with {table.version()}; generate it again",
    )


def _beside(uri: str) -> list[str]:
    """Name the tables in the folder where a table should be, as far as it is one of this machine's."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return []
    return [log.parent.name for log in Path(unquote(parts.path)).parent.glob("*/_delta_log")]


def _statistics(result: BucketResult) -> str:
    known: dict[str, Any] = {"numRecords": result.file.rows, "nullCount": {TIME_COLUMN: 0}}
    if result.earliest is not None and result.latest is not None:
        known["minValues"] = {TIME_COLUMN: _text(result.earliest)}
        known["maxValues"] = {TIME_COLUMN: _text(result.latest)}
    return json.dumps(known)


def _text(micros: int) -> str:
    return from_micros(micros).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
