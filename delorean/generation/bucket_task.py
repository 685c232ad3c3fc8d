"""A bucket task: bucket i of the labels and of every service's runs in, one Parquet file of features out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.generation.matching import Matched, match_files, match_versions
from delorean.generation.plan import LATEST_INPUT_COLUMN, GenerationPlan, captured_column
from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from encoders.data_map import DataMaps
from schemas.errors import ParadoxError
from schemas.tables import TIME
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet


@dataclass(frozen=True)
class BucketResult:
    """What a bucket task wrote and saw.

    items: items of the rows written
    earliest, latest: the first and last time coordinate, microseconds
    absent: element → rows without it
    seconds: step → wall time
    """

    file: DataFile
    items: int
    earliest: int
    latest: int
    absent: Mapping[str, int]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Write the result as plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{**fields, "file": DataFile.from_json(fields["file"])})


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_bucket(plan: GenerationPlan, labels_file: DataFile, folder: str, attempt: str) -> BucketResult:
    """Generate the features of one bucket of labels.

    labels_file: one of the plan's label files; nothing else distinguishes one task from another
    folder, attempt: where the file goes; an attempt that died leaves only an orphan

    Raises ParadoxError if any input of a row is later than its time.
    """
    storage = open_storage(plan.storage_uri)
    watch = _Stopwatch()
    with watch.step("read labels"):
        rows = read_parquet(storage, labels_file).combine_chunks()
    with watch.step("match state"):
        matched = _match(plan, rows, labels_file.bucket, storage)
    with watch.step("encode"):
        maps = data_maps(plan, rows, matched)
        features = plan.model.encode(maps)
    table = _feature_rows(plan, rows, matched, features)
    with watch.step("write"):
        path = f"{folder}/{labels_file.bucket:05d}-{attempt}.parquet"
        file = write_parquet(storage, path, table, plan.schema, labels_file.bucket)
    times = pc.min_max(rows[TIME_COLUMN].cast(pa.int64())).as_py()
    absent = {name: int(found.absent.sum()) for name, found in matched.items()}
    return BucketResult(file, len(maps.items), times["min"], times["max"], absent, watch.seconds)


def first_data_maps(plan: GenerationPlan, contexts: int) -> DataMaps:
    """Build the data maps of a plan's first label rows, for golden rows or a look at what encoders see."""
    storage = open_storage(plan.storage_uri)
    file = plan.labels.files[0]
    rows = read_parquet(storage, file).slice(0, contexts).combine_chunks()
    return data_maps(plan, rows, _match(plan, rows, file.bucket, storage))


def data_maps(plan: GenerationPlan, rows: pa.Table, matched: Mapping[str, Matched]) -> DataMaps:
    """Build the data maps of label rows: labels and outcomes stay behind."""
    offsets = _list_array(rows, LABEL_COLUMN).offsets.to_numpy().astype(np.int64)
    return DataMaps(
        contexts=rows.select([*(key.name for key in plan.labels.context), TIME_COLUMN]),
        items=pa.table({key.name: _flat(rows, key.name) for key in plan.labels.items}),
        item_offsets=offsets - offsets[0],
        elements={name: found.element for name, found in matched.items()},
    )


def _match(plan: GenerationPlan, rows: pa.Table, bucket: int, storage: Storage) -> dict[str, Matched]:
    matched: dict[str, Matched] = {}
    labels = plan.labels
    for service in plan.services:
        files = [file for _, file in service.files(bucket, labels.buckets, labels.bucket_variable)]
        matched[service.element.name] = match_files(
            rows, service.service.key, service.element, service.rule, files, storage
        )
    for source in plan.globals:
        matched[source.element.name] = match_versions(rows[TIME_COLUMN], source, plan.storage_uri)
    return matched


def _feature_rows(
    plan: GenerationPlan, rows: pa.Table, matched: Mapping[str, Matched], features: Mapping[str, NDArray[np.float32]]
) -> pa.Table:
    """Put label rows, features and the times of their inputs side by side, features in lists as long as the items."""
    labels = _list_array(rows, LABEL_COLUMN)
    offsets = pc.subtract(labels.offsets, labels.offsets[0])
    columns = {name: rows[name] for name in rows.column_names}
    for name in plan.features:
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(features[name], pa.float32()))
    for name, found in matched.items():
        columns[captured_column(name)] = found.captured_times()
    columns[LATEST_INPUT_COLUMN] = _latest_input(rows, matched)
    return pa.table([columns[name] for name in plan.schema.names], schema=plan.schema)


def _latest_input(rows: pa.Table, matched: Mapping[str, Matched]) -> pa.Array:
    """Give the latest capture each row was made from; null where every element is absent."""
    never = np.iinfo(np.int64).min
    latest = np.full(rows.num_rows, never, dtype=np.int64)
    for found in matched.values():
        np.maximum(latest, np.where(found.absent, never, found.captured_at), out=latest)
    late = latest > rows[TIME_COLUMN].cast(pa.int64()).to_numpy()
    if late.any():
        raise ParadoxError.because(
            f"{int(late.sum())} rows would be made from state captured after their time: this is a defect of DeLorean",
            "please report it; nothing was published",
        )
    return pa.array(latest, mask=latest == never).cast(TIME)


def _flat(rows: pa.Table, name: str) -> pa.Array:
    return _list_array(rows, name).flatten()


def _list_array(rows: pa.Table, name: str) -> pa.ListArray:
    column = rows[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
