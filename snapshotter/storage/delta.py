"""Delta tables wherever they lie."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from deltalake import DeltaTable

from schemas.errors import StorageError

_COLOURS = re.compile(r"\x1b\[\d*m↳?")


def delta_location(uri: str) -> tuple[str, dict[str, str] | None]:
    """Give what deltalake and Polars open a table by: its URI, and their storage options, which are secret.

    uri: as `Storage.uri_of` gives it, or any other that needs no options

    Raises StorageError when no credentials are found, ConfigError for a URI that is wrong.
    """
    if urlsplit(uri).scheme != "s3":
        return uri, None
    from snapshotter.storage.s3 import S3Storage

    return uri.partition("?")[0], S3Storage(uri).delta_options()


def delta_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a version of a table, None: the newest.

    Raises deltalake's errors, and StorageError when S3 lets nobody in.
    """
    plain, options = delta_location(uri)
    try:
        return DeltaTable(plain, version=version, storage_options=options)
    except OSError as error:
        if options is not None:
            _look(uri)
            raise StorageError.because(f"Delta table {uri} cannot be read: {plainly(error)}") from error
        raise


def plainly(error: Exception) -> str:
    """Give the first words of deltalake's coloured trees of reasons, in a line."""
    return " ".join(_COLOURS.sub(":", str(error)).split())[:300]


def _look(uri: str) -> None:
    """Raise what is wrong with a place in S3 in our own words, if anything is."""
    from snapshotter.storage.s3 import S3Storage

    next(S3Storage(uri).list(""), None)
