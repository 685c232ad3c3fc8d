"""Reads ranking data from feature sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.context_sample import Batches, ChosenContexts, choose_contexts, list_lengths
from delorean.ranking_data.context_weights import ContextWeight
from delorean.ranking_data.ranking_data import RankingData, offsets_of, ranges
from schemas.errors import MissingFileError, TrainingError
from snapshotter.storage.delta import delta_table
from snapshotter.storage.delta_version import DeltaVersion

_BATCH_ROWS = 16_384


def read_feature_set(
    source: str | pa.Table,
    features: Sequence[str],
    items: Sequence[str],
    context: Sequence[str],
    *,
    version: int | None = None,
    weight: str | ContextWeight | None = None,
    max_items: int | None = None,
    seed: int = 0,
    label: str = "label",
    item_weight: str | None = None,
    kept: Sequence[str] = (),
) -> RankingData:
    """Read a feature set for training, sorted by time and context, so that the order of files cannot change a model.

    source: the path of a Delta table, or an Arrow table of the same columns
    features: columns of type list<float32>; they become the features in this order
    items, context: the columns of the item variables (lists) and of the context variables
    version: of the Delta table; None: the newest
    weight: a column with each context's weight, such as `confidence`; where it is null the weight is 1. Or an inverse
        probability, see `ContextWeight`
    max_items: if there are more, contexts are sampled by a seeded hash of their variables and time
    label, item_weight: columns of lists: the label, and each item's weight; None: all 1
    kept: further columns of one value for each context, such as a stratum, to measure by

    Memory: the result and a few thousand rows; while a sample is drawn, the variables of four times as many contexts.
    Raises TrainingError for a missing table, column or value, or a column of another type.
    """
    names, batches = _batches(source, version, label)
    weighting = ContextWeight(times=weight) if isinstance(weight, str) else weight
    weight_columns = () if weighting is None else weighting.columns
    outcome = ["outcome_at"] if "outcome_at" in names else []
    columns = list(dict.fromkeys([*context, "time", *outcome, *weight_columns, *kept]))
    chosen = choose_contexts(batches, columns, [*context, "time"], max_items, seed, label)
    order = _sorted_rows(chosen.contexts, context)
    offsets = offsets_of(chosen.lengths[order])
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = offsets[:-1]
    matrix = np.empty((int(offsets[-1]), len(features)), dtype=np.float32)
    floats = {name: np.empty(len(matrix), np.float32) for name in (label, item_weight) if name is not None}
    item_table = _read_items(batches, chosen, starts, (matrix, floats), (features, items))
    if np.isnan(floats[label]).any() or (floats[label] < 0).any():
        raise TrainingError.because(f"column '{label}' has nulls or values below 0, expected gains of 0 and more")
    contexts = chosen.contexts.take(order)
    weights = None if weighting is None else weighting.of(contexts)
    own = (*context, "time", *outcome, *kept)
    contexts = contexts.drop_columns([name for name in weight_columns if name not in own])
    own_weights = None if item_weight is None else floats[item_weight]
    return RankingData(
        contexts, item_table, offsets, floats[label], matrix, tuple(features), weights, chosen.unread, own_weights
    )


def _batches(source: str | pa.Table, version: int | None, label: str) -> tuple[Sequence[str], Batches]:
    """Return the names of a source's columns and a function that reads some of them."""
    if isinstance(source, pa.Table):
        table = source
        _require(table.schema.names, ["time", label])
        return table.schema.names, lambda columns: _from_table(table, columns)
    try:
        stored = DeltaVersion.of(delta_table(source, version), source)
    except MissingFileError as error:
        raise TrainingError.because(f"no feature set to train on: {error}", "generate one first") from error

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        _require(stored.schema.names, columns, f"version {stored.version} of {source}")
        yield from stored.batches(columns)

    return stored.schema.names, read


def _from_table(table: pa.Table, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    _require(table.schema.names, columns)
    yield from table.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)


def _require(existing: Sequence[str], required: Sequence[str], where: str = "the feature set") -> None:
    for name in required:
        if name not in existing:
            raise TrainingError.unknown(f"column of {where}", name, existing)


def _sorted_rows(contexts: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    keys = [(name, "ascending") for name in ["time", *names]]
    order: NDArray[np.int64] = pc.sort_indices(contexts, sort_keys=keys).to_numpy().astype(np.int64)
    return order


def _read_items(
    batches: Batches,
    chosen: ChosenContexts,
    starts: NDArray[np.int64],
    into: tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]],
    columns: tuple[Sequence[str], Sequence[str]],
) -> pa.Table:
    """Write the lists of each chosen row where its context starts, and return the items in that order.

    into: the features' matrix, and an array for each other column of lists of floats
    """
    matrix, others = into
    features, items = columns
    item_batches: list[pa.RecordBatch] = []
    positions: list[NDArray[np.int64]] = []
    row = 0
    for batch in batches([*items, *features, *others]):
        first, end = np.searchsorted(chosen.rows, [row, row + len(batch)])
        numbers, lengths = chosen.rows[first:end], chosen.lengths[first:end]
        read = batch if len(numbers) == len(batch) else batch.take(pa.array(numbers - row))
        row += len(batch)
        target = ranges(starts[first:end], lengths)
        for column, name in enumerate(features):
            matrix[target, column] = _floats(read, name, lengths, numbers)
        for name, values in others.items():
            values[target] = _floats(read, name, lengths, numbers)
        item_batches.append(pa.record_batch([_flat(read, name, lengths, numbers) for name in items], names=items))
        positions.append(target)
    order = np.empty(len(matrix), dtype=np.int64)
    order[np.concatenate(positions)] = np.arange(len(matrix))
    return pa.Table.from_batches(item_batches).take(order).combine_chunks()


def _flat(batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.Array:
    own_lengths = list_lengths(batch, column)
    if (own_lengths != lengths).any():
        at = int(np.argmax(own_lengths != lengths))
        raise TrainingError.because(
            f"column '{column}' has {own_lengths[at]} values in row {rows[at]}, expected {lengths[at]}: one per label"
        )
    return batch.column(column).flatten()


def _floats(
    batch: pa.RecordBatch, column: str, lengths: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    values = _flat(batch, column, lengths, rows)
    if values.type != pa.float32():
        raise TrainingError.because(f"column '{column}' is {batch.column(column).type}, expected list<float>")
    floats: NDArray[np.float32] = values.to_numpy(zero_copy_only=False)
    return floats
