"""The format of the exposure log: its columns, its files' names, and what a file says about itself.

```
exposures/<test>/<date>/<time>-<writer>-<number>.<format>.parquet      exposures/_default/… outside tests
```
A row is one answered ranking. Variables are within `context` and `items`, because theirs may be any names: a test's
unit is `context.profile_id`, the shown videos are `items.video_id`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import xxhash

from schemas.data_keys import DataKey
from schemas.errors import StorageError
from schemas.tables import TIME
from snapshotter.storage import Storage, require_plain_name

FOLDER = "exposures"
VERSION = 1
_OUTSIDE_TESTS = "_default"  # no test's name: those begin with a letter or a digit
_VERSION, _DROPPED = b"delorean.exposures", b"delorean.dropped"

# The columns beside the variables. Files of earlier formats may lack some, which are null then.
COLUMNS: Mapping[str, pa.DataType] = {
    "request_id": pa.string(),
    "time": TIME,  # of the ranking, as the answer states it
    "test": pa.string(),  # null outside tests
    "cell": pa.string(),
    "package": pa.string(),  # digest; of two that are interleaved, both with a + between them
    "task_type": pa.string(),  # null for models without tasks
    "positions": pa.list_(pa.int32()),  # of each shown item among the request's candidates
    "scores": pa.list_(pa.float32()),
    "propensities": pa.list_(pa.float64()),  # of each shown item at its place; null where unknown
    "team": pa.list_(pa.int8()),  # of interleaved rankings: 0 or 1, which of them earns the credit; −1: neither
    "seed": pa.int64(),  # of random rankings, which it reproduces
}


def exposures_schema(context: Iterable[DataKey], items: Iterable[DataKey]) -> pa.Schema:
    """Return the schema of exposures for the variables of contexts and items."""
    fields = list(COLUMNS.items())
    variables = pa.struct([(key.name, key.type) for key in context])
    if variables.num_fields:  # Parquet has no struct without fields
        fields.append(("context", variables))
    fields.append(("items", pa.struct([(key.name, pa.list_(key.type)) for key in items])))
    return pa.schema(fields)


@dataclass(frozen=True)
class ExposureFile:
    """A file of the log. format: equal for files of equal schemas and the same version of the format."""

    path: str
    day: date
    format: str


def folder_of(test: str | None) -> str:
    """Return the folder of a test's exposures; None: of those outside tests. Raises ConfigError for a wrong name."""
    if test is None:
        return f"{FOLDER}/{_OUTSIDE_TESTS}"
    require_plain_name("test", test)
    return f"{FOLDER}/{test}"


def file_path(test: str | None, first: datetime, writer: str, number: int, schema: pa.Schema) -> str:
    """Return the path of a new file. first: the time of its first row; writer, number: never used together before."""
    format_ = xxhash.xxh3_64_hexdigest(bytes([VERSION]) + schema.remove_metadata().serialize().to_pybytes())
    return f"{folder_of(test)}/{first:%Y-%m-%d}/{first:%H%M%S}-{writer}-{number:06d}.{format_}.parquet"


def exposure_files(storage: Storage, test: str | None, first: date | None, last: date | None) -> list[ExposureFile]:
    """List a test's files from a day to another, in the order of days and times. None: from the first, to the last."""
    folder = folder_of(test)
    if first is not None and last is not None:
        folders = [f"{folder}/{first + timedelta(days=day)}" for day in range((last - first).days + 1)]
    else:
        folders = [folder]
    paths = [file.path for each in folders for file in storage.list(each) if file.path.endswith(".parquet")]
    files = [ExposureFile(path, _day(path), path.rsplit(".", 2)[1]) for path in sorted(paths)]
    return [file for file in files if (first or file.day) <= file.day <= (last or file.day)]


def logged_tests(storage: Storage) -> list[str]:
    """Return the names of the tests that have exposures, sorted."""
    names = {file.path.split("/")[1] for file in storage.list(FOLDER)}
    return sorted(names - {_OUTSIDE_TESTS})


def with_record(schema: pa.Schema, dropped: int) -> pa.Schema:
    """Add what a file says about itself. dropped: number of rows that were lost since the file before."""
    return schema.with_metadata({_VERSION: json.dumps(VERSION).encode(), _DROPPED: json.dumps(dropped).encode()})


def dropped_before(path: str, schema: pa.Schema) -> int:
    """Return the number of rows that were lost before a file. Raises StorageError for a file of a later release."""
    metadata = schema.metadata or {}
    try:
        version, dropped = (int(json.loads(metadata.get(name, b"0"))) for name in (_VERSION, _DROPPED))
    except (ValueError, TypeError) as error:
        raise StorageError.because(f"'{path}' is not a file of exposures: {error}", "move it elsewhere") from error
    if version > VERSION:
        raise StorageError.because(
            f"'{path}' has format {version} of exposures, expected at most {VERSION}",
            "install the release that wrote it",
        )
    return dropped


def _day(path: str) -> date:
    folder = path.rsplit("/", 2)[-2]
    try:
        return date.fromisoformat(folder)
    except ValueError as error:
        raise StorageError.because(f"'{path}' is not in a folder of a day", "move it elsewhere") from error
