"""A bucket task: bucket i of the labels and of every service's runs in, one Parquet file of features out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.feature_sets.bucket_result import BucketResult
from delorean.feature_sets.columns import (
    CONFIDENCE_COLUMN,
    LATEST_INPUT_COLUMN,
    SPREAD_COLUMN,
    captured_column,
    run_column,
    version_column,
)
from delorean.feature_sets.digest import digest_rows
from delorean.generation.plan import GenerationPlan
from delorean.labels import LABEL_COLUMN, TIME_COLUMN
from delorean.state.captures import match_files
from delorean.state.provenance import (
    Served,
    SpreadReport,
    confidence_of,
    latest_input,
    micros,
    spread_of,
    spread_seconds,
)
from delorean.state.sources import ServiceSource
from delorean.state.version_tables import match_versions
from delorean.step_timer import StepTimer
from encoders.columns import one_array
from encoders.data_map import DataMaps
from schemas.errors import QualityError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet


@dataclass(frozen=True)
class BucketFeatures:
    """Features of one bucket's label rows.

    table: of the feature set's schema
    absent: element → rows without it; spread: of all rows, also of those dropped for it
    """

    table: pa.Table
    absent: Mapping[str, int]
    spread: SpreadReport


def run_bucket(plan: GenerationPlan, labels_file: DataFile, folder: str, attempt: str) -> BucketResult:
    """Generate the features of one bucket of labels and write them.

    labels_file: one of the plan's label files; nothing else distinguishes one task from another
    folder, attempt: where the file goes; an attempt that died leaves only an orphan

    Raises ParadoxError if any input of a row is later than its time, QualityError where the plan's spread says fail.
    """
    storage = open_storage(plan.storage_uri)
    watch = StepTimer()
    with watch.step("read labels"):
        rows = read_parquet(storage, labels_file).combine_chunks()
    made = bucket_features(plan, rows, labels_file.bucket, storage, watch)
    with watch.step("write"):
        path = f"{folder}/{labels_file.bucket:05d}-{attempt}.parquet"
        file = write_parquet(storage, path, made.table, plan.schema, labels_file.bucket)
    with watch.step("digest"):
        context, items = ([key.name for key in keys] for keys in (plan.labels.context, plan.labels.items))
        digest = digest_rows(made.table, context, items, plan.features)
    times = pc.min_max(made.table[TIME_COLUMN].cast(pa.int64())).as_py()
    return BucketResult(file, digest.items, times["min"], times["max"], made.absent, made.spread, digest, watch.seconds)


def bucket_features(
    plan: GenerationPlan, rows: pa.Table, bucket: int, storage: Storage, watch: StepTimer
) -> BucketFeatures:
    """Match, encode and put together the features of label rows, all of one bucket."""
    with watch.step("match state"):
        served = _match(plan, rows, bucket, storage)
    spread = spread_of(_of_services(plan, served), rows.num_rows)
    report = SpreadReport.of(spread, None if plan.spread is None else plan.spread.limit)
    torn = _torn(plan, spread)
    if torn is not None and plan.spread is not None and plan.spread.beyond == "drop":
        kept = ~torn
        rows, torn = rows.filter(pa.array(kept)).combine_chunks(), None
        served = {name: each.where(kept) for name, each in served.items()}
    with watch.step("encode"):
        features = plan.model.encode(data_maps(plan, rows, served))
    table = _feature_rows(plan, rows, served, features, torn)
    absent = {name: int(each.matched.absent.sum()) for name, each in served.items()}
    return BucketFeatures(table, absent, report)


def first_data_maps(plan: GenerationPlan, contexts: int) -> DataMaps:
    """Build the data maps of a plan's first label rows, for golden rows or a look at what encoders see."""
    storage = open_storage(plan.storage_uri)
    file = plan.labels.files[0]
    rows = read_parquet(storage, file).slice(0, contexts).combine_chunks()
    return data_maps(plan, rows, _match(plan, rows, file.bucket, storage))


def data_maps(plan: GenerationPlan, rows: pa.Table, served: Mapping[str, Served]) -> DataMaps:
    """Build the data maps of label rows: labels and outcomes stay behind."""
    offsets = _list_array(rows, LABEL_COLUMN).offsets.to_numpy().astype(np.int64)
    return DataMaps(
        contexts=rows.select([*(key.name for key in plan.labels.context), TIME_COLUMN]),
        items=pa.table({key.name: _flat(rows, key.name) for key in plan.labels.items}),
        item_offsets=offsets - offsets[0],
        elements={name: each.matched.element for name, each in served.items()},
    )


def _match(plan: GenerationPlan, rows: pa.Table, bucket: int, storage: Storage) -> dict[str, Served]:
    served = {source.element.name: _match_service(plan, source, rows, bucket, storage) for source in plan.services}
    for source in plan.globals:
        matched = match_versions(rows[TIME_COLUMN], source, plan.storage_uri)
        served[source.element.name] = Served(matched, source.read)
    return served


def _match_service(
    plan: GenerationPlan, source: ServiceSource, rows: pa.Table, bucket: int, storage: Storage
) -> Served:
    found = list(source.files(bucket, plan.labels.buckets, plan.labels.bucket_variable))
    matched = match_files(rows, rows[TIME_COLUMN], source.service.key, source.element, source.rule, found, storage)
    if source.skipped:
        unfit = np.array([snapshot.run_id in source.skipped for snapshot, _ in found], dtype=bool)
        matched = matched.without((matched.file >= 0) & unfit[matched.file] if len(unfit) else matched.absent)
    return Served(matched, [snapshot.run_id for snapshot, _ in found], [snapshot.confidence for snapshot, _ in found])


def _of_services(plan: GenerationPlan, served: Mapping[str, Served]) -> list[Served]:
    return [served[source.element.name] for source in plan.services]


def _torn(plan: GenerationPlan, spread: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Tell which rows are made from captures too far apart; None where there are none, or nobody minds."""
    if plan.spread is None or not len(spread):
        return None
    torn = spread > micros(plan.spread.limit)
    if not torn.any():
        return None
    if plan.spread.beyond == "fail":
        raise QualityError.because(
            f"{int(torn.sum())} of {len(torn)} rows of a bucket are made from captures up to "
            f"{spread.max() / 1e6:,.1f} s apart, expected at most {plan.spread.limit.total_seconds():,.1f} s",
            'capture the services closer together, widen the limit, or say beyond = "drop" or "null"',
        )
    return torn


def _feature_rows(
    plan: GenerationPlan,
    rows: pa.Table,
    served: Mapping[str, Served],
    features: Mapping[str, NDArray[np.float32]],
    torn: NDArray[np.bool_] | None,
) -> pa.Table:
    """Put label rows, features and where they come from side by side, features in lists as long as the items."""
    labels = _list_array(rows, LABEL_COLUMN)
    offsets = pc.subtract(labels.offsets, labels.offsets[0])
    columns = {name: rows[name] for name in rows.column_names}
    unknown = None if torn is None else np.repeat(torn, np.diff(offsets.to_numpy()))
    for name in plan.features:
        hidden = unknown if name in plan.from_services else None
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(features[name], pa.float32(), mask=hidden))
    for source in plan.services:
        columns[run_column(source.element.name)] = served[source.element.name].names()
    for each in plan.globals:
        columns[version_column(each.element.name)] = served[each.element.name].names()
    for name, found in served.items():
        columns[captured_column(name)] = found.matched.captured_times()
    columns[LATEST_INPUT_COLUMN] = latest_input(rows[TIME_COLUMN], served)
    columns[SPREAD_COLUMN] = spread_seconds(spread_of(_of_services(plan, served), rows.num_rows))
    columns[CONFIDENCE_COLUMN] = confidence_of(_of_services(plan, served), rows.num_rows)
    return pa.table([columns[name] for name in plan.schema.names], schema=plan.schema)


def _flat(rows: pa.Table, name: str) -> pa.Array:
    return _list_array(rows, name).flatten()


def _list_array(rows: pa.Table, name: str) -> pa.ListArray:
    return one_array(rows[name])
