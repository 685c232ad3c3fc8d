"""Rows of one context and time, found in any number of files without holding all rows' keys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.feature_digest import row_hashes
from delorean.labels import TIME_COLUMN
from delorean.paradox.report import Ledger
from delorean.paradox.rows import Rows
from delorean.paradox.stored import StoredFeatureSet

ONE_ROW = "no context and time has two rows"
_HASHES_AT_ONCE = 16_000_000  # 128 MB, and as much again to sort them


def check_repeats(stored: StoredFeatureSet, ledger: Ledger, at_once: int = _HASHES_AT_ONCE) -> None:
    """Find rows whose context and time another row has too, wherever it stands.

    at_once: hashes held in memory; where there are more rows, their contexts and times are read several times, each
        time for another share of the hashes. Rows of equal hashes are then compared by value.
    """
    columns = [*stored.context, TIME_COLUMN]
    parts = -(-stored.rows // at_once)
    for part in range(parts):
        hashes = [found[found % np.uint64(parts) == part] for _, found in _hashed(stored, columns)]
        several = _several(np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]))
        if len(several):
            suspects = [rows.filter(pa.array(np.isin(found, several))) for rows, found in _hashed(stored, columns)]
            _count(stored, pa.concat_tables(suspects), ledger)


def _hashed(stored: StoredFeatureSet, columns: list[str]) -> Iterator[tuple[pa.Table, NDArray[np.uint64]]]:
    for rows in stored.batches(columns):
        yield rows, row_hashes(rows, columns)


def _several(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Give the hashes that occur more than once."""
    hashes.sort()
    found: NDArray[np.uint64] = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    return found


def _count(stored: StoredFeatureSet, suspects: pa.Table, ledger: Ledger) -> None:
    groups = suspects.group_by(suspects.column_names).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups["count_all"], 1))
    if repeated.num_rows:
        extra = pc.sum(repeated["count_all"]).as_py() - repeated.num_rows
        first = Rows(stored, repeated.sort_by(TIME_COLUMN).slice(0, 1))
        example = f"{first.name(0)}: {first.value('count_all', 0)} rows"
        ledger.count(ONE_ROW, "rows repeat the context and time of another", extra, example)
