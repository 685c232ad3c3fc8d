"""Object storage: where Parquet lies."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

import pyarrow as pa

from schemas.errors import ConfigError, StorageError

_LONGEST_NAME = 200  # file systems allow 255 bytes: an id before it and an ending behind it must fit too
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # on Windows no file can be named so


def require_plain_name(what: str, name: str) -> None:
    """Raise ConfigError unless a name can be one folder's or file's in any storage and on any system.

    The one rule for every name that becomes a part of a path: 1 to 200 of the letters A-Z and a-z, digits and
    `. _ = + -`, the first a letter or a digit, the last no dot, and none that Windows keeps for devices. So no name
    leads elsewhere, starts an option or a hidden file, or is spelled otherwise once it is in a URL.

    >>> require_plain_name("feature set", "team/homepage")
    Traceback (most recent call last):
    ...
    schemas.errors.ConfigError: feature set 'team/homepage' cannot name a folder: it contains '/' → use 1 to 200 \
letters, digits and . _ = + -, a letter or digit first
    """
    if problem := _name_problem(name):
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:40]}…"
        raise ConfigError.because(
            f"{what} {shown!r} cannot name a folder: {problem}",
            f"use 1 to {_LONGEST_NAME} letters, digits and . _ = + -, a letter or digit first",
        )


def _name_problem(name: str) -> str | None:
    """Say why a name cannot be a part of a path; None where it can."""
    if not name:
        return "it is empty"
    if len(name) > _LONGEST_NAME:
        return f"it has {len(name)} characters"
    if not _PLAIN_NAME.fullmatch(name):
        other = next((letter for letter in name if not re.match(r"[A-Za-z0-9._=+-]", letter)), None)
        return f"it contains {other!r}" if other is not None else f"it begins with {name[0]!r}"
    if name.endswith("."):
        return "it ends with a dot"
    return "Windows keeps that name for a device" if _DEVICE.fullmatch(name) else None


def is_inside(path: str) -> bool:
    """Whether a path is one below a root: relative, without `..` or anything else that could lead out of it."""
    return not any(part in ("", ".", "..") or "\0" in part for part in path.split("/"))


def require_inside(path: str, uri: str) -> None:
    """Raise StorageError unless a path is one below the root of a storage; a / at its end is no matter."""
    if not is_inside(path.rstrip("/")):
        raise StorageError.because(f"path '{path}' is not one inside {uri}", "use a relative path without ..")


@dataclass(frozen=True)
class StoredFile:
    """A file as listed. path: relative to the storage's root."""

    path: str
    bytes: int
    modified_at: datetime


class Storage(ABC):
    """Files under one root, named by relative paths with forward slashes.

    Drivers' errors come out as StorageError, a file that is not there as MissingFileError. Workers open a storage of
    their own from its `uri`.
    """

    uri: str

    def uri_of(self, path: str) -> str:
        """Give the URI of what lies at a path, such as a Delta table: with all that it takes to get there."""
        root, mark, query = self.uri.partition("?")
        return f"{root.rstrip('/')}/{quote(path, safe='/=+')}{mark}{query}"

    @abstractmethod
    def open_input(self, path: str) -> pa.NativeFile:
        """Open a file for random reads. Raises MissingFileError."""

    @abstractmethod
    def open_output(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """Open a new file for writing; it is durable when the context ends, and removed when it ends with an error."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a small file if none is there, atomically; False, changing nothing, if there is one."""

    @abstractmethod
    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        """List the files below a folder, sorted by path; none if it does not exist.

        name_prefix: only what is directly in the folder under a name that begins so, and what is below that

        Raises StorageError if the folder, or one below it, cannot be listed.
        """

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; those that are gone already are no error."""


def open_storage(uri: str) -> Storage:
    """Open the storage at a URI: `file:///path/to/folder` or `s3://bucket/prefix?endpoint=…&region=…`.

    Raises ConfigError for a scheme that no implementation has.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        from snapshotter.storage.local import LocalStorage

        return LocalStorage(uri)
    if scheme == "s3":
        from snapshotter.storage.s3 import S3Storage

        return S3Storage(uri)
    if not scheme:
        raise ConfigError.because("the storage's URI has no scheme", "write file:///path/to/folder, or project.storage")
    raise ConfigError.unknown("storage scheme", scheme, ["file", "s3"])
