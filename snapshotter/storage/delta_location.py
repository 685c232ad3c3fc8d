"""How Delta's engines open a table: its URI and their storage options."""

from __future__ import annotations

from urllib.parse import urlsplit


def delta_location(uri: str) -> tuple[str, dict[str, str] | None]:
    """Return what deltalake and Polars open a table by: its URI, and their storage options, which are secret.

    uri: from `Storage.uri_of`, or any other that needs no options

    Raises StorageError if there are no credentials, ConfigError for an invalid URI.
    """
    if urlsplit(uri).scheme != "s3":
        return uri, None
    from snapshotter.storage.s3 import S3Storage

    return uri.partition("?")[0], S3Storage(uri).delta_options()


def require_reachable(uri: str) -> None:
    """Raise StorageError if S3 denies access to a URI: clearer than the long tree of reasons of an engine."""
    if urlsplit(uri).scheme == "s3":
        from snapshotter.storage.s3 import S3Storage

        next(S3Storage(uri).list(""), None)
