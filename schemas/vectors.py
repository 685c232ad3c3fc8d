"""Columns of vectors as matrices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import DataKeyError


def is_vector(type: pa.DataType) -> bool:  # noqa: A002  # the field's own name
    """Whether it is the type of vectors in feature sets: Delta has no lists of a fixed size."""
    return bool(pa.types.is_list(type) and type.value_type == pa.float32())


def vector_matrix(name: str, vectors: pa.Array) -> NDArray[np.float32]:
    """Return vectors as a matrix (vectors, width); one that is null is NaN throughout, a null component is NaN.

    name: of their column, for errors
    vectors: list<float>; where all are null, the width is 0

    Raises DataKeyError for vectors of several lengths.

    >>> vector_matrix("factors", pa.array([[1, 2], None], pa.list_(pa.float32()))).tolist()
    [[1.0, 2.0], [nan, nan]]
    """
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    kept = vectors if present.all() else vectors.drop_null()
    lengths = pc.list_value_length(kept).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if len(lengths) else 0
    if (lengths != width).any():
        other = int(lengths[lengths != width][0])
        raise DataKeyError.because(
            f"column '{name}' has vectors of {width} and of {other} components", "give all vectors the same length"
        )
    components = kept.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if present.all():
        return np.ascontiguousarray(components)
    matrix = np.full((len(vectors), width), np.nan, dtype=np.float32)
    matrix[present] = components
    return matrix
