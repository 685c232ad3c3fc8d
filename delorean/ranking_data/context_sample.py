"""Chooses the contexts of a feature set that a model learns from: all, or a sample by hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.stable_hash import unit_hash
from schemas.errors import TrainingError
from schemas.tables import TIME

Batches = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
Eligible = Callable[[pa.Table], NDArray[np.bool_]]  # whether each of some contexts may be read


@dataclass(frozen=True)
class ChosenContexts:
    """The contexts that are read.

    rows: their row numbers in the feature set, ascending; lengths: number of items of each
    unread: number of contexts and of items that are left out by sampling
    """

    contexts: pa.Table
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    unread: tuple[int, int]


def choose_contexts(
    batches: Batches,
    columns: Sequence[str],
    key: Sequence[str],
    most: int | None,
    seed: int,
    label: str,
    eligible: Eligible | None = None,
) -> ChosenContexts:
    """Read the contexts that are eligible, and keep a sample by hash if they have more items than `most`.

    The number of items is known only at the end. Until then, contexts whose hash is below a bound are kept; the bound
    is halved whenever they have more than four times `most` items, so it stays above the final bound.
    """
    kept: list[tuple[pa.RecordBatch, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    rows = candidates = items = kept_items = 0
    bound = 1.0
    for whole in batches([*columns, label]):
        _check_times(whole)
        batch, numbers = _eligible(whole, rows, eligible)
        rows, candidates = rows + len(whole), candidates + len(batch)
        lengths = list_lengths(batch, label)
        hashes = np.zeros(len(batch)) if most is None else unit_hash([batch[name] for name in key], seed)
        kept.append(_below(bound, batch.select(list(columns)), numbers, lengths, hashes))
        items, kept_items = items + int(lengths.sum()), kept_items + int(kept[-1][2].sum())
        while most is not None and kept_items > 4 * most:
            bound /= 2
            kept = [_below(bound, *part) for part in kept]
            kept_items = sum(int(part[2].sum()) for part in kept)
    if rows == 0:
        raise TrainingError.because("the feature set is empty", "generate features for label data that has rows")
    if most is not None and items > most:
        kept = [_below(most / items, *part) for part in kept]
    contexts = pa.Table.from_batches([part[0] for part in kept]).combine_chunks()
    numbers, lengths = (np.concatenate([part[i] for part in kept]) for i in (1, 2))
    return ChosenContexts(contexts, numbers, lengths, (candidates - len(numbers), items - int(lengths.sum())))


def _eligible(
    contexts: pa.RecordBatch, first: int, eligible: Eligible | None
) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    """Return those that are eligible, and their numbers. first: the number of the first."""
    numbers = np.arange(first, first + len(contexts))
    if eligible is None:
        return contexts, numbers
    chosen = eligible(pa.Table.from_batches([contexts]))
    return contexts.filter(pa.array(chosen)), numbers[chosen]


def _below(
    bound: float,
    contexts: pa.RecordBatch,
    numbers: NDArray[np.int64],
    lengths: NDArray[np.int64],
    hashes: NDArray[np.float64],
) -> tuple[pa.RecordBatch, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Keep the contexts whose hash is below a bound."""
    keep = hashes < bound
    if keep.all():
        return contexts, numbers, lengths, hashes
    return contexts.filter(pa.array(keep)), numbers[keep], lengths[keep], hashes[keep]


def _check_times(contexts: pa.RecordBatch) -> None:
    if contexts.schema.field("time").type != TIME:
        raise TrainingError.because(f"column 'time' is {contexts.schema.field('time').type}, expected {TIME}")
    if contexts["time"].null_count:
        raise TrainingError.because("column 'time' has nulls: a row without a time belongs to no part of a split")


def list_lengths(batch: pa.RecordBatch, column: str) -> NDArray[np.int64]:
    """Return the lengths of a column's lists. Raises TrainingError for another type, or nulls."""
    values = batch.column(column)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise TrainingError.because(f"column '{column}' is {values.type}, expected a list with a value for each item")
    if values.null_count:
        raise TrainingError.because(f"column '{column}' is null in {values.null_count} rows, expected a list in each")
    lengths: NDArray[np.int64] = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths
