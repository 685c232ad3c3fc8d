"""Reads the exposure log in bounded memory: only files of the days asked for, each request once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from delorean.exposures.table_format import COLUMNS, ExposureFile, dropped_before, exposure_files
from schemas.errors import AbTestError, ConfigError, CorruptFileError, StorageError
from schemas.tables import TIME
from schemas.times import from_micros, to_micros
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_unrecorded

_ONCE = ("request_id", "time")
_KEPT = -(1 << 63)  # no time of a row


def read_exposures(
    storage: Storage,
    test: str | None,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> pa.RecordBatchReader:
    """Read the exposures of a test, a batch at a time, in the order of days.

    test: None: what was shown outside tests
    since, until: times with a zone, `until` excluded; None: from the first, to the last. No other day's file is read
    columns: see `delorean.exposures.table_format.COLUMNS`, `context` and `items`; None: all

    A request that is in the log several times within a day, because its caller or a writer tried again, is read once,
    at its first time. What a file of an earlier format lacks is null. Memory holds some batches, and 8 bytes for each
    row of a day.

    Raises AbTestError where there are no exposures, CorruptFileError for a damaged file, and StorageError where a
    variable's types cannot be read as one.
    """
    files = exposure_files(storage, test, *days_of(since, until))
    if not files:
        name = "outside tests" if test is None else f"of test '{test}'"
        when = "".join(f" {word} {at:%F %T}" for word, at in (("since", since), ("until", until)) if at is not None)
        raise AbTestError.because(f"there are no exposures {name}{when}", "serve it with `delorean serve --test`")
    schema = _schema(storage, files)
    names = schema.names if columns is None else list(columns)
    for name in names:
        if name not in schema.names:
            raise ConfigError.unknown("column of exposures", name, schema.names)
    selected = pa.schema([schema.field(name) for name in names])
    return pa.RecordBatchReader.from_batches(selected, _batches(storage, files, selected, since, until))


def days_of(since: datetime | None, until: datetime | None) -> tuple[date | None, date | None]:
    """Return the first and last day of a span; `until` is excluded. Raises NaiveTimeError, and ConfigError for none."""
    begin, end = (None if moment is None else to_micros(moment) for moment in (since, until))
    if begin is not None and end is not None and begin >= end:
        raise ConfigError.because(f"since is {since}, not before until, {until}", "swap them")
    return (
        None if begin is None else from_micros(begin).date(),
        None if end is None else from_micros(end - 1).date(),
    )


def _schema(storage: Storage, files: Iterable[ExposureFile]) -> pa.Schema:
    """Return the schema that all files can be read as: our columns, and all variables of any file."""
    formats: dict[str, str] = {}
    for file in files:
        formats.setdefault(file.format, file.path)
    schemas = [_checked_schema(storage, path) for path in formats.values()]
    try:
        unified = pa.unify_schemas([pa.schema(COLUMNS.items()), *schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise StorageError.because(
            f"exposures have variables whose types cannot be read as one: {error}", "read fewer days at a time"
        ) from error
    variables = [unified.field(name) for name in ("context", "items") if name in unified.names]
    return pa.schema([*COLUMNS.items(), *variables])


def _checked_schema(storage: Storage, path: str) -> pa.Schema:
    with storage.open_input(path) as opened:
        try:
            schema = pq.read_schema(opened)
        except (pa.ArrowException, OSError) as error:
            raise CorruptFileError.because(f"'{path}' cannot be read: {error}", "restore it from a copy") from error
    dropped_before(path, schema)
    return schema.remove_metadata()


def _batches(
    storage: Storage, files: Sequence[ExposureFile], selected: pa.Schema, since: datetime | None, until: datetime | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a span as a schema, each request of a day once."""
    for _, inside in groupby(files, lambda file: file.day):
        paths = [file.path for file in inside]
        repeats = _repeats(storage, paths)
        for path in paths:
            for read in read_unrecorded(storage, path, [*{*selected.names, *_ONCE}]):  # those that it has
                batch = _within(_once(read, repeats), since, until)
                if len(batch):
                    yield pa.RecordBatch.from_arrays([_as(batch, field) for field in selected], schema=selected)


def _repeats(storage: Storage, paths: Sequence[str]) -> dict[str, int]:
    """Return the requests that are in files several times, with their first time.

    Only hashes are compared first, 8 bytes for each row; then the requests whose hashes are equal.
    """
    hashes = np.sort(np.fromiter((hash_ for _, _, hash_ in _requests(storage, paths)), np.uint64))
    again = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not again:
        return {}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for request, time, hash_ in _requests(storage, paths):
        if hash_ in again:
            counts[request] += 1
            first[request] = min(time, first.get(request, time))
    return {request: time for request, time in first.items() if counts[request] > 1}


def _requests(storage: Storage, paths: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each row's request, its time and its hash."""
    for path in paths:
        for batch in read_unrecorded(storage, path, _ONCE):
            times = batch["time"].cast(pa.int64()).to_pylist()
            for request, time in zip(batch["request_id"].to_pylist(), times, strict=True):
                yield request, time, xxhash.xxh3_64_intdigest(request.encode())


def _once(batch: pa.RecordBatch, repeats: dict[str, int]) -> pa.RecordBatch:
    """Keep of each repeated request the first row; `repeats` loses those that were kept."""
    if not repeats:
        return batch
    keep = pc.invert(pc.is_in(batch["request_id"], pa.array(repeats, pa.string()))).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(~keep):
        request, time = batch["request_id"][row].as_py(), batch["time"][row].value
        keep[row] = repeats[request] == time
        if keep[row]:
            repeats[request] = _KEPT
    return batch.filter(pa.array(keep))


def _within(batch: pa.RecordBatch, since: datetime | None, until: datetime | None) -> pa.RecordBatch:
    """Keep the rows of a span."""
    for moment, compare in ((since, pc.greater_equal), (until, pc.less)):
        if moment is not None:
            batch = batch.filter(compare(batch["time"], pa.scalar(to_micros(moment), pa.int64()).cast(TIME)))
    return batch


def _as(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """Return a column as a field's type; what it lacks, variables within it included, is null."""
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)
    column = batch[field.name]
    if column.type == field.type or not pa.types.is_struct(field.type):
        return column.cast(field.type)
    own = {inner.name for inner in column.type}
    inner = [
        column.field(each.name).cast(each.type) if each.name in own else pa.nulls(len(batch), each.type)
        for each in field.type
    ]
    return pa.StructArray.from_arrays(inner, fields=list(field.type), mask=column.is_null())
