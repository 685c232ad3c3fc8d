"""Groups of contexts: by the values of a column, by day, and clusters of contexts that are not independent."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.ranking_data.ranking_data import RankingData
from schemas.errors import TrainingError

MOST_GROUPS = 40
OTHERS = "all others"
NULL = "null"
_DAY = 86_400_000_000


def groups_of(part: RankingData, column: str) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each value of a column, the most frequent value first.

    Beyond 40 values, the rest are one group. Raises TrainingError for an unknown column, or one of lists or structs.
    """
    values = _column(part, column, "column to measure by")
    texts = pc.fill_null(values.cast(pa.string()), NULL).combine_chunks().dictionary_encode()
    codes, names = texts.indices.to_numpy(), texts.dictionary.to_pylist()
    counts = np.bincount(codes, minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    kept = order if len(order) <= MOST_GROUPS else order[: MOST_GROUPS - 1]
    groups = {names[code]: np.flatnonzero(codes == code) for code in kept}
    if len(kept) < len(order):
        groups[OTHERS] = np.flatnonzero(~np.isin(codes, kept))
    return groups


def groups_by_day(part: RankingData, since: datetime) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each day since a moment, such as the end of the training part: "0" is the first 24 hours.

    Beyond 40 days, the last group has all later ones, "39 and later".
    """
    start = pa.scalar(since, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()
    days = (part.contexts["time"].cast(pa.int64()).to_numpy() - start) // _DAY
    last = MOST_GROUPS - 1
    groups = {str(day): np.flatnonzero(days == day) for day in np.unique(days[days < last]).tolist()}
    if (days >= last).any():
        groups[f"{last} and later"] = np.flatnonzero(days >= last)
    return groups


def clusters_of(part: RankingData, column: str | None) -> NDArray[np.int64] | None:
    """Return the number of each context's cluster; None without a column. Contexts with a null are one cluster."""
    if column is None:
        return None
    encoded = _column(part, column, "variable of clusters").combine_chunks().dictionary_encode(null_encoding="encode")
    codes: NDArray[np.int64] = np.unique(encoded.indices.to_numpy(), return_inverse=True)[1]
    return codes


def _column(part: RankingData, name: str, what: str) -> pa.ChunkedArray:
    if name not in part.contexts.schema.names:
        raise TrainingError.unknown(what, name, part.contexts.schema.names)
    values = part.contexts[name]
    if pa.types.is_nested(values.type):
        raise TrainingError.because(f"column '{name}' is {values.type}, expected one value for each context")
    return values
