"""Tables of predictions: one row for each context of a feature set, with a score for each of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pyarrow as pa

from delorean.feature_sets.stored_version import StoredVersion
from schemas.errors import ConfigError, MissingFileError
from schemas.plain_text import plain_text
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.delta import commit_files, committed_once, delta_table
from snapshotter.storage.delta_log import commit_info
from snapshotter.storage.delta_version import DeltaVersion

FOLDER = "predictions"
_RECORD = "delorean.predictions"


@dataclass(frozen=True, repr=False)
class Predictions(StoredVersion):
    """Scores of a feature set's items: one version of a Delta table.

    Its columns are the context variables, `time`, the item variables as lists, `score`: list<float32> aligned with the
    items, and the columns that were kept; where the package calibrates, also `probability`: list<float32>.

    uri: of the table, as deltalake, Spark, Polars and DuckDB open it
    context, items, kept: names of columns
    package: the package's path and digest; feature_set: its uri and version
    lowest, highest: of all scores; None where there are no items
    notes: what was not verified
    """

    uri: str
    version: int
    context: tuple[str, ...]
    items: tuple[str, ...]
    kept: tuple[str, ...]
    rows: int
    item_count: int
    lowest: float | None
    highest: float | None
    package: Mapping[str, str]
    feature_set: Mapping[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(
            f"predictions {self.uri}, version {self.version}: {self.rows:,} rows, {self.item_count:,} scores"
        )

    def files(self) -> DeltaVersion:
        """List the files of this version."""
        return DeltaVersion.of(delta_table(self.uri, self.version), self.uri)


def predictions_uri(storage: Storage, name: str) -> str:
    """Return the URI of the table of predictions with a name."""
    return storage.uri_of(f"{FOLDER}/{name}")


def commit(
    storage: Storage,
    name: str,
    schema: pa.Schema,
    files: Sequence[DataFile],
    predictions: Predictions,
    run_id: str | None,
) -> Predictions:
    """Commit files as the table's next version, replacing its contents; of one run id only the first commits.

    predictions: without a version
    """
    record = msgspec.json.encode(replace(predictions, uri="")).decode()
    version = commit_files(storage, f"{FOLDER}/{name}", schema, files, {_RECORD: record}, once=run_id)
    return load_predictions(storage, name, version)


def find_predictions(storage: Storage, name: str, run_id: str) -> Predictions | None:
    """Return what the run with an id committed; None if it has committed nothing."""
    version = committed_once(predictions_uri(storage, name), run_id)
    return None if version is None else load_predictions(storage, name, version)


def load_predictions(storage: Storage, name: str, version: int | None = None) -> Predictions:
    """Return predictions as they were committed. version: None: the newest.

    Raises ConfigError for a table or a version that does not exist, or that DeLorean did not write.
    """
    uri = predictions_uri(storage, name)
    try:
        number = int(delta_table(uri, version).version())
    except MissingFileError as error:
        hint = str(error).partition(" → ")[2] or ("existing: " + (", ".join(prediction_names(storage)) or "none"))
        raise ConfigError.because(f"there are no predictions '{name}'", hint) from error
    entry = commit_info(uri, number)
    if entry is None or _RECORD not in entry:
        raise ConfigError.because(f"version {number} of the table at {uri} was not written by delorean predict")
    return replace(msgspec.json.decode(entry[_RECORD], type=Predictions), uri=uri, version=number)


def prediction_names(storage: Storage) -> list[str]:
    """Return the names of the tables of predictions in a storage, sorted."""
    paths = [file.path.split("/") for file in storage.list(FOLDER)]
    return sorted({path[1] for path in paths if path[2:3] == ["_delta_log"]})
