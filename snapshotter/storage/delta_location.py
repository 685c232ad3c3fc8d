"""Where Delta tables lie, as their engines are told."""

from __future__ import annotations

from urllib.parse import urlsplit


def delta_location(uri: str) -> tuple[str, dict[str, str] | None]:
    """Give what deltalake and Polars open a table by: its URI, and their storage options, which are secret.

    uri: as `Storage.uri_of` gives it, or any other that needs no options

    Raises StorageError when no credentials are found, ConfigError for a URI that is wrong.
    """
    if urlsplit(uri).scheme != "s3":
        return uri, None
    from snapshotter.storage.s3 import S3Storage

    return uri.partition("?")[0], S3Storage(uri).delta_options()


def require_reachable(uri: str) -> None:
    """Raise StorageError if S3 lets nobody to a place, in our own words: engines tell a long tree of reasons."""
    if urlsplit(uri).scheme == "s3":
        from snapshotter.storage.s3 import S3Storage

        next(S3Storage(uri).list(""), None)
