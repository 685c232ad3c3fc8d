"""The matrix of features: in memory, or in a file that the system maps and can evict."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from numpy.typing import NDArray

from schemas.errors import TrainingError

IN_MEMORY = 1 << 30


def new_matrix(rows: int, columns: int, in_memory: int = IN_MEMORY) -> NDArray[np.float32]:
    """Return an uninitialised matrix (rows, columns).

    in_memory: if it takes more bytes, it is an unlinked file in the folder of temporary files (`TMPDIR`), mapped into
        memory: the system evicts what is not used, and deletes it with the last reference

    Raises TrainingError where the file does not fit on its disk.

    >>> new_matrix(2, 3, in_memory=0).shape
    (2, 3)
    """
    size = rows * columns * 4
    if size <= in_memory or size == 0:
        return np.empty((rows, columns), dtype=np.float32)
    try:
        with tempfile.TemporaryFile(prefix="delorean-features-") as file:
            # Reserve the blocks: on a full disk, writing to a mapped file would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, columns))
    except OSError as error:
        raise TrainingError.because(
            f"{size:,} bytes of features do not fit into {tempfile.gettempdir()}: {error.strerror}",
            "set TMPDIR to a folder on a larger disk, or lower [model] max_items",
        ) from error
    return mapped.view(np.ndarray)
