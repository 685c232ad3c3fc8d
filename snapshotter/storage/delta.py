"""Delta tables wherever they lie."""

from __future__ import annotations

import re

from deltalake import DeltaTable

from snapshotter.storage.delta_location import delta_location, require_reachable

_COLOURS = re.compile(r"\x1b\[\d*m↳?")


def delta_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a table, None: the newest.

    Raises deltalake's errors, and StorageError when S3 lets nobody in.
    """
    plain, options = delta_location(uri)
    try:
        return DeltaTable(plain, version=version, storage_options=options)
    except OSError:
        require_reachable(uri)
        raise


def plainly(error: Exception) -> str:
    """Give the first words of deltalake's coloured trees of reasons, in a line."""
    return " ".join(_COLOURS.sub(":", str(error)).split())[:300]
