"""Quantiles of non-negative numbers in bounded memory: numbers within 1/128 of one another are counted together.

Counts add up exactly and do not depend on the order of rows, as the sketches of libraries do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DROPPED_BITS = 45  # of a float's 52: numbers that agree in the other 7 share a bin


def bin_columns(values: NDArray[np.float64]) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Return the columns that `sum_bins` adds up, one row for each number: bin, rows, greatest."""
    numbers = values.astype(np.float64)
    bins = numbers.view(np.int64) >> DROPPED_BITS
    return {"bin": bins, "rows": np.ones(len(values), dtype=np.int64), "greatest": numbers}


def sum_bins(counts: pa.Table, by: Sequence[str] = ()) -> pa.Table:
    """Add up the rows of each bin, and keep its greatest number. by: further columns that separate counts."""
    keys = [*by, "bin"]
    sums = counts.group_by(keys, use_threads=False).aggregate([("rows", "sum"), ("greatest", "max")])
    return sums.select([*keys, "rows_sum", "greatest_max"]).rename_columns([*keys, "rows", "greatest"])


def quantiles(counts: pa.Table, shares: Sequence[float]) -> list[float]:
    """Return for each share the least number that this share of all does not exceed, or one up to 0.8 % greater.

    counts: of `sum_bins`, with at least one row. The greatest number, share 1, is exact
    """
    bins = sum_bins(counts).sort_by("bin")
    reached, greatest = np.cumsum(bins["rows"].to_numpy()), bins["greatest"].to_numpy()
    return [float(greatest[np.searchsorted(reached, np.ceil(share * reached[-1] - 1e-9))]) for share in shares]
