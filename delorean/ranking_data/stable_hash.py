"""A seeded hash of contexts that is the same on every machine, in any file order and Python version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.hashing import text_codes


def unit_hash(columns: Sequence[pa.Array | pa.ChunkedArray], seed: int) -> NDArray[np.float64]:
    """Hash each row's values to a number in [0, 1), evenly spread; rows of equal values get equal numbers.

    >>> unit_hash([pa.array([7, 8, 7])], seed=1).round(3).tolist()
    [0.634, 0.032, 0.634]
    """
    texts = [column.cast(pa.string()) for column in columns]
    # Each text is preceded by its length, so that ("a", "bc") and ("ab", "c") differ.
    parts = [part for text in texts for part in (pc.utf8_length(text).cast(pa.string()), text)]
    joined = pc.binary_join_element_wise(
        pa.scalar(str(seed)), *parts, ":", null_handling="replace", null_replacement="null"
    )
    return text_codes(joined).view(np.uint64) / 2.0**64
