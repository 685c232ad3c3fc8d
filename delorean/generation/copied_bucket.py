"""A bucket task that copies the columns that an earlier version of the feature set has, and computes the others.

The result has the values that computing everything gives. Where the earlier file is missing, has changed or does not
fit, everything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.feature_sets.bucket_result import BucketOutcome, BucketResult
from delorean.feature_sets.columns import captured_column, run_column, version_column
from delorean.feature_sets.digest import FeatureDigest, digest_rows
from delorean.generation.bucket_task import (
    absent_counts,
    adapted_counts,
    data_maps,
    feature_columns,
    judge_spread,
    match_elements,
    provenance_columns,
    run_bucket,
    summary_columns,
    unserved_elements,
)
from delorean.generation.generation_plan import EarlierVersion, GenerationPlan
from delorean.labels import TIME_COLUMN
from delorean.labels.row_hashes import row_hashes
from delorean.state.matches import ElementMatch
from delorean.state.provenance import ResolvedElement, SpreadReport
from delorean.state.sources import GlobalSource, ServiceSource
from delorean.step_timer import StepTimer
from encoders.data_map import ABSENT, Element
from schemas.errors import CorruptFileError, MissingFileError
from snapshotter.records import DataFile
from snapshotter.storage import open_storage
from snapshotter.storage.parquet import read_parquet
from snapshotter.storage.parquet_columns import ParquetColumns, write_with_columns


class _DoesNotFitError(Exception):
    """The earlier file cannot be used, for a reason that is no defect."""


def run_task(plan: GenerationPlan, labels_file: DataFile, folder: str, attempt: str) -> BucketOutcome:
    """Generate the features of one bucket of labels, copying what the plan's earlier version has; see `run_bucket`.

    Rows never need older snapshots of an element whose features are copied: its sources are equal to those with which
    the earlier version was finished.
    """
    if plan.earlier is None:
        return run_bucket(plan, labels_file, folder, attempt)
    try:
        return _copy_bucket(plan, plan.earlier, labels_file, folder, attempt)
    except (MissingFileError, CorruptFileError, _DoesNotFitError) as error:
        reason = str(error).partition(" → ")[0]
    outcome = run_bucket(plan, labels_file, folder, attempt)
    return outcome if outcome.result is None else BucketOutcome(replace(outcome.result, not_copied=reason))


def _copy_bucket(
    plan: GenerationPlan, earlier: EarlierVersion, labels_file: DataFile, folder: str, attempt: str
) -> BucketOutcome:
    storage = open_storage(plan.storage_uri)
    watch, bucket = StepTimer(), labels_file.bucket
    before = earlier.buckets[bucket]
    with watch.step("read labels"):
        rows = read_parquet(storage, labels_file).combine_chunks()
    with watch.step("copy"):
        columns = ParquetColumns(storage, before.file)
        if columns.rows != rows.num_rows:
            rows = _kept_rows(plan, rows, columns)
    with watch.step("match state"):
        elements = match_elements(plan, rows, bucket, storage, earlier.read)
    if unserved := unserved_elements(elements):
        return BucketOutcome(None, unserved)
    provenance, torn = _provenance(plan, earlier, before, rows, elements, columns)
    with watch.step("encode"):
        features = {} if earlier.model is None else earlier.model.encode(data_maps(plan, rows, elements))
    lists = feature_columns(plan, rows, features, torn)
    with watch.step("digest"):
        digest = _digest(plan, rows.select(plan.labels.schema.names), lists, before.digest)
    with watch.step("write"):
        new = {**lists, **provenance.columns}
        table = pa.table(new, schema=pa.schema([field for field in plan.schema if field.name in new]))
        path = f"{folder}/{bucket:05d}-{attempt}.parquet"
        file = write_with_columns(storage, path, plan.schema, columns, table, bucket)
    counted = {**before.adapted, **adapted_counts(plan, elements)}
    result = replace(
        before,
        file=file,
        absent=provenance.absent,
        spread=provenance.spread,
        digest=digest,
        seconds=watch.seconds,
        adapted={element.name: counted[element.name] for element in plan.elements},
    )
    return BucketOutcome(result)


class _Provenance(NamedTuple):
    """The columns of provenance that the earlier file lacks, and the counts of a bucket's result."""

    columns: Mapping[str, pa.Array]
    absent: Mapping[str, int]
    spread: SpreadReport


def _provenance(
    plan: GenerationPlan,
    earlier: EarlierVersion,
    before: BucketResult,
    rows: pa.Table,
    matched: Mapping[str, ResolvedElement],
    columns: ParquetColumns,
) -> tuple[_Provenance, NDArray[np.bool_] | None]:
    """Return the provenance of rows, and a mask of those whose features from services are null.

    matched: the elements that were read
    """
    same = earlier.same_elements and earlier.same_spread
    if same and not (before.spread.beyond and plan.spread is not None and plan.spread.beyond == "null"):
        return _Provenance({}, before.absent, before.spread), None
    elements = {**_copied_elements(plan, columns, matched), **matched}
    report, torn = judge_spread(plan, elements, rows.num_rows)
    if torn is not None and not earlier.same_spread:
        raise _DoesNotFitError("rows lie beyond the spread's limit")
    changed = {name: element for name, element in elements.items() if name not in earlier.unchanged}
    new = provenance_columns(plan, changed) | summary_columns(plan, rows, elements)
    absent = absent_counts(plan, rows, elements)
    return _Provenance(new, absent, before.spread if earlier.same_spread else report), torn


def _kept_rows(plan: GenerationPlan, rows: pa.Table, columns: ParquetColumns) -> pa.Table:
    """Return the label rows that the earlier version did not drop; the digest of their keys proves that it is these."""
    key = [*(variable.name for variable in plan.labels.context), TIME_COLUMN]
    kept = np.isin(row_hashes(rows, key), row_hashes(columns.read(key), key))
    return rows.filter(pa.array(kept)).combine_chunks()


def _copied_elements(
    plan: GenerationPlan, columns: ParquetColumns, matched: Mapping[str, ResolvedElement]
) -> dict[str, ResolvedElement]:
    """Return where the elements that were not matched come from, without their values."""
    elements = {}
    sources: list[ServiceSource | GlobalSource] = [*plan.services, *plan.globals]
    for source in sources:
        name = source.element.name
        if name not in matched:
            of_service = isinstance(source, ServiceSource)
            table = columns.read([run_column(name) if of_service else version_column(name), captured_column(name)])
            confidence = [each.confidence for each in source.snapshots] if isinstance(source, ServiceSource) else None
            elements[name] = ResolvedElement(_match_of(table, source.ids), source.ids, confidence)
    return elements


def _match_of(table: pa.Table, ids: tuple[str, ...]) -> ElementMatch:
    served, captured = table.columns
    file = pc.fill_null(pc.index_in(served, pa.array(ids, pa.string())), -1).to_numpy().astype(np.int64)
    captured_at = pc.fill_null(captured.cast(pa.int64()), 0).to_numpy()
    return ElementMatch(captured_at, file, Element(pa.nulls(1), np.where(file < 0, ABSENT, 0)))


def _digest(
    plan: GenerationPlan, rows: pa.Table, lists: Mapping[str, pa.Array], before: FeatureDigest
) -> FeatureDigest:
    """Return the digest of the copied and the computed columns, and prove that they are of the same rows."""
    for name, column in lists.items():
        rows = rows.append_column(name, column)
    context, items = ([key.name for key in keys] for keys in (plan.labels.context, plan.labels.items))
    digest = digest_rows(rows, context, items, list(lists), plan.labels.shape)
    if (digest.rows, digest.keys) != (before.rows, before.keys):
        raise _DoesNotFitError("its rows are not those of the label data")
    features = {name: digest.features.get(name) or before.features[name] for name in plan.features}
    return replace(digest, features=features)
