"""A bucket task: reads bucket i of the labels and of every service's runs, writes one Parquet file of features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.feature_sets.bucket_result import BucketOutcome, BucketResult
from delorean.feature_sets.columns import (
    CONFIDENCE_COLUMN,
    LATEST_INPUT_COLUMN,
    SPREAD_COLUMN,
    captured_column,
    run_column,
    version_column,
)
from delorean.feature_sets.digest import digest_rows
from delorean.generation.generation_plan import GenerationPlan
from delorean.labels import TIME_COLUMN
from delorean.state.adaptations import adapted_rows
from delorean.state.captures import match_captures
from delorean.state.provenance import (
    ResolvedElement,
    SpreadReport,
    confidence_of,
    latest_input,
    micros,
    spread_of,
    spread_seconds,
)
from delorean.state.sources import ServiceSource
from delorean.state.version_values import match_versions
from delorean.step_timer import StepTimer
from delorean.tasks.applicable_rows import lacking_rows, without_sentinels
from delorean.tasks.impossible_features import task_numbers
from encoders.columns import one_array
from encoders.data_map import DataMaps, concatenated
from schemas.errors import EncoderError, QualityError
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_parquet, write_parquet

_MOST_COMPONENTS = 2**31 - 1  # that one list array of Arrow holds


@dataclass(frozen=True)
class BucketFeatures:
    """Features of one bucket's label rows.

    table: of the feature set's schema
    absent: element → rows without it; spread: of all rows, including those dropped for it
    adapted: element → run or version of another type → rows that it served
    """

    table: pa.Table
    absent: Mapping[str, int]
    spread: SpreadReport
    adapted: Mapping[str, Mapping[str, int]]


def run_bucket(plan: GenerationPlan, labels_file: DataFile, folder: str, attempt: str) -> BucketOutcome:
    """Generate the features of one bucket of labels and write them, unless rows need snapshots that the plan lacks.

    labels_file: one of the plan's label files; tasks differ in nothing else
    folder, attempt: of the file; an attempt that dies leaves an orphan that no version names

    Raises ParadoxError if any input of a row is later than its time, QualityError where the spread's policy is fail.
    """
    storage = open_storage(plan.storage_uri)
    watch = StepTimer()
    with watch.step("read labels"):
        rows = read_parquet(storage, labels_file).combine_chunks()
    with watch.step("match state"):
        elements = match_elements(plan, rows, labels_file.bucket, storage)
    if unserved := unserved_elements(elements):
        return BucketOutcome(None, unserved)
    features = bucket_features(plan, rows, elements, watch)
    with watch.step("write"):
        path = f"{folder}/{labels_file.bucket:05d}-{attempt}.parquet"
        file = write_parquet(storage, path, features.table, plan.schema, labels_file.bucket)
    with watch.step("digest"):
        context, items = ([key.name for key in keys] for keys in (plan.labels.context, plan.labels.items))
        digest = digest_rows(features.table, context, items, plan.features, plan.labels.shape)
    times = pc.min_max(features.table[TIME_COLUMN].cast(pa.int64())).as_py()
    result = BucketResult(
        file,
        digest.items,
        times["min"],
        times["max"],
        features.absent,
        features.spread,
        digest,
        watch.seconds,
        features.adapted,
        task_items=task_items(plan, features.table),
    )
    return BucketOutcome(result)


def unserved_elements(elements: Mapping[str, ResolvedElement]) -> tuple[str, ...]:
    """Return the elements of which rows need older snapshots than the plan lists."""
    return tuple(name for name, element in elements.items() if not element.complete)


def bucket_features(
    plan: GenerationPlan, rows: pa.Table, elements: dict[str, ResolvedElement], watch: StepTimer
) -> BucketFeatures:
    """Encode the label rows of one bucket, and assemble their feature rows. elements: what `match_elements` found."""
    report, torn = judge_spread(plan, elements, rows.num_rows)
    if torn is not None and plan.spread is not None and plan.spread.beyond == "drop":
        kept = ~torn
        rows, torn = rows.filter(pa.array(kept)).combine_chunks(), None
        elements = {name: element.where(kept) for name, element in elements.items()}
    with watch.step("encode"):
        features = plan.model.encode(data_maps(plan, rows, elements))
    table = _feature_rows(plan, rows, elements, features, torn)
    return BucketFeatures(table, absent_counts(plan, rows, elements), report, adapted_counts(plan, elements))


def absent_counts(plan: GenerationPlan, rows: pa.Table, elements: Mapping[str, ResolvedElement]) -> dict[str, int]:
    """Count for each element the rows without it, of those whose task can have it."""
    counts = {source.element.name: int(elements[source.element.name].match.absent.sum()) for source in plan.globals}
    for source in plan.services:
        key = [variable.name for variable in source.service.key]
        absent = elements[source.element.name].match.absent & ~lacking_rows(rows, key, plan.tasks)
        counts[source.element.name] = int(absent.sum())
    return {element.name: counts[element.name] for element in plan.elements}


def task_items(plan: GenerationPlan, rows: pa.Table) -> dict[str, int]:
    """Count the items of each task's rows; empty for label data of one use."""
    if plan.tasks is None:
        return {}
    numbers = task_numbers(rows, plan.tasks)
    lengths = np.diff(_list_array(rows, plan.labels.items[0].name).offsets.to_numpy())
    counts = np.bincount(numbers, weights=lengths, minlength=len(plan.tasks.tasks))
    return dict(zip(plan.tasks.names, counts.astype(int).tolist(), strict=True))


def adapted_counts(plan: GenerationPlan, elements: Mapping[str, ResolvedElement]) -> dict[str, Mapping[str, int]]:
    """Count for each element the rows that runs or versions of other types serve, see `BucketResult.adapted`."""
    return {
        name: adapted_rows(elements[name].match, elements[name].source_ids, source.differing)
        for source in plan.sources
        if (name := source.element.name) in elements
    }


def first_data_maps(plan: GenerationPlan, contexts: int) -> DataMaps:
    """Return the data maps of a plan's first label rows, for golden rows or to inspect the encoders' input.

    Those of tasks are the first rows of each task, from the first file that has any.
    """
    storage = open_storage(plan.storage_uri)
    remaining = {0} if plan.tasks is None else {*range(len(plan.tasks.tasks))}
    parts: list[DataMaps] = []
    for file in plan.labels.files:
        rows = read_parquet(storage, file)
        numbers = np.zeros(len(rows), np.int64) if plan.tasks is None else task_numbers(rows, plan.tasks)
        here = remaining & {*numbers.tolist()}
        first = [np.flatnonzero(numbers == number)[: contexts // len(remaining | here)] for number in here]
        rows = rows.take(np.sort(np.concatenate([np.zeros(0, np.int64), *first]))).combine_chunks()
        parts.append(data_maps(plan, rows, match_elements(plan, rows, file.bucket, storage)))
        remaining -= here
        if not remaining:
            break
    return concatenated(parts)


def data_maps(plan: GenerationPlan, rows: pa.Table, elements: Mapping[str, ResolvedElement]) -> DataMaps:
    """Return the data maps of label rows, without labels and outcomes."""
    offsets = _list_array(rows, plan.labels.items[0].name).offsets.to_numpy().astype(np.int64)
    return DataMaps(
        contexts=rows.select([*(key.name for key in plan.labels.context), TIME_COLUMN]),
        items=pa.table({key.name: _list_array(rows, key.name).flatten() for key in plan.labels.items}),
        item_offsets=offsets - offsets[0],
        elements={name: element.match.element for name, element in elements.items()},
    )


def match_elements(
    plan: GenerationPlan, rows: pa.Table, bucket: int, storage: Storage, names: Collection[str] | None = None
) -> dict[str, ResolvedElement]:
    """Find the state of each row, and read it. names: of the elements; None: all that the plan has."""
    wanted = {element.name for element in plan.elements} if names is None else names
    elements = {
        source.element.name: _match_service(plan, source, rows, bucket, storage)
        for source in plan.services
        if source.element.name in wanted
    }
    for source in plan.globals:
        if source.element.name in wanted:
            match = match_versions(rows[TIME_COLUMN], source, plan.storage_uri)
            elements[source.element.name] = ResolvedElement(match, source.ids)
    return elements


def _match_service(
    plan: GenerationPlan, source: ServiceSource, rows: pa.Table, bucket: int, storage: Storage
) -> ResolvedElement:
    rows = without_sentinels(rows, [variable.name for variable in source.service.key], plan.tasks)
    files = list(source.files(bucket, plan.labels.buckets, plan.labels.bucket_variable))
    match = match_captures(rows, rows[TIME_COLUMN], source.service.key, source.element, source.rule, files, storage)
    complete = not source.needs_older(rows, match)
    if source.skipped:
        skipped = np.array([snapshot.run_id in source.skipped for snapshot, _ in files], dtype=bool)
        match = match.without((match.file >= 0) & skipped[match.file] if len(skipped) else match.absent)
    runs = [snapshot.run_id for snapshot, _ in files]
    return ResolvedElement(match, runs, [snapshot.confidence for snapshot, _ in files], complete)


def _of_services(plan: GenerationPlan, elements: Mapping[str, ResolvedElement]) -> list[ResolvedElement]:
    return [elements[source.element.name] for source in plan.services]


def judge_spread(
    plan: GenerationPlan, elements: Mapping[str, ResolvedElement], rows: int
) -> tuple[SpreadReport, NDArray[np.bool_] | None]:
    """Return how far apart captures lie, and a mask of the rows beyond the limit; None without such rows.

    Raises QualityError where the policy is fail.
    """
    spread = spread_of(_of_services(plan, elements), rows)
    report = SpreadReport.of(spread, None if plan.spread is None else plan.spread.limit)
    return report, _beyond_limit(plan, spread)


def _beyond_limit(plan: GenerationPlan, spread: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Return a mask of the rows beyond the spread's limit; None without such rows or without a limit.

    Raises QualityError where the policy is fail.
    """
    if plan.spread is None or not len(spread):
        return None
    torn = spread > micros(plan.spread.limit)
    if not torn.any():
        return None
    if plan.spread.beyond == "fail":
        raise QualityError.because(
            f"{int(torn.sum())} of {len(torn)} rows of a bucket are made from captures up to "
            f"{spread.max() / 1e6:,.1f} s apart, expected at most {plan.spread.limit.total_seconds():,.1f} s",
            'capture the services closer together, widen the limit, or set beyond = "drop" or "null"',
        )
    return torn


def _feature_rows(
    plan: GenerationPlan,
    rows: pa.Table,
    elements: Mapping[str, ResolvedElement],
    features: Mapping[str, NDArray[np.float32]],
    torn: NDArray[np.bool_] | None,
) -> pa.Table:
    """Assemble label rows, features and provenance."""
    columns = {name: rows[name] for name in rows.column_names}
    columns |= feature_columns(plan, rows, features, torn)
    columns |= provenance_columns(plan, elements)
    columns |= summary_columns(plan, rows, elements)
    return pa.table([columns[name] for name in plan.schema.names], schema=plan.schema)


def feature_columns(
    plan: GenerationPlan,
    rows: pa.Table,
    features: Mapping[str, NDArray[np.float32]],
    torn: NDArray[np.bool_] | None,
) -> dict[str, pa.Array]:
    """Return features as lists aligned with the items. torn: rows whose features from services become null."""
    of_items = _list_array(rows, plan.labels.items[0].name)
    offsets = pc.subtract(of_items.offsets, of_items.offsets[0])
    torn_items = None if torn is None else np.repeat(torn, np.diff(offsets.to_numpy()))
    columns = {}
    for name, values in features.items():
        nulls = torn_items if name in plan.from_services else None
        flat = pa.array(values, pa.float32(), mask=nulls) if values.ndim == 1 else _vectors(name, values, nulls)
        columns[name] = pa.ListArray.from_arrays(offsets, flat)
    return columns


def _vectors(name: str, values: NDArray[np.float32], nulls: NDArray[np.bool_] | None) -> pa.ListArray:
    """Return vectors as lists. values: (items, width). Raises EncoderError for more than a file's list can hold."""
    items, width = values.shape
    if items * width > _MOST_COMPONENTS:
        raise EncoderError.because(
            f"the vectors '{name}' of a bucket's {items:,} items have {items * width:,} components, expected at most "
            f"{_MOST_COMPONENTS:,}",
            "materialise the label data with more buckets",
        )
    bounds = pa.array(np.arange(0, items * width + 1, width, dtype=np.int32))
    components = pa.array(values.reshape(-1), pa.float32(), from_pandas=False)
    return pa.ListArray.from_arrays(bounds, components, mask=None if nulls is None else pa.array(nulls))


def provenance_columns(plan: GenerationPlan, elements: Mapping[str, ResolvedElement]) -> dict[str, pa.Array]:
    """Return for each element the columns that say what served each row, and when that was captured."""
    of_services = {source.element.name for source in plan.services}
    columns = {}
    for name, element in elements.items():
        columns[run_column(name) if name in of_services else version_column(name)] = element.served_by()
        columns[captured_column(name)] = element.match.captured_times()
    return columns


def summary_columns(
    plan: GenerationPlan, rows: pa.Table, elements: Mapping[str, ResolvedElement]
) -> dict[str, pa.Array]:
    """Return the columns that sum up all elements of a row. Raises ParadoxError if one is later than its row's time."""
    services = _of_services(plan, elements)
    return {
        LATEST_INPUT_COLUMN: latest_input(rows[TIME_COLUMN], elements),
        SPREAD_COLUMN: spread_seconds(spread_of(services, rows.num_rows)),
        CONFIDENCE_COLUMN: confidence_of(services, rows.num_rows),
    }


def _list_array(rows: pa.Table, name: str) -> pa.ListArray:
    return one_array(rows[name])
