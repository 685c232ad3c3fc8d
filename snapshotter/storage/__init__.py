"""Object storage: files in a folder or in S3."""

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
from snapshotter.storage.partial_input import PartialInput, WholeInput

_LONGEST_NAME = 200  # file systems allow 255 bytes: an id before it and a suffix after it must fit too
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # reserved on Windows


def require_plain_name(what: str, name: str) -> None:
    """Raise ConfigError unless a name can be that of a folder or file in any storage and on any system.

    The one rule for every name that becomes part of a path: 1 to 200 of the letters A-Z and a-z, digits and
    `. _ = + -`, the first a letter or a digit, the last not a dot, and not reserved for a device by Windows. So a name
    cannot lead out of its folder, look like an option or a hidden file, or be escaped in a URL.

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
    """Return why a name cannot be part of a path, or None."""
    if not name:
        return "it is empty"
    if len(name) > _LONGEST_NAME:
        return f"it has {len(name)} characters"
    if not _PLAIN_NAME.fullmatch(name):
        other = next((letter for letter in name if not re.match(r"[A-Za-z0-9._=+-]", letter)), None)
        return f"it contains {other!r}" if other is not None else f"it begins with {name[0]!r}"
    if name.endswith("."):
        return "it ends with a dot"
    return "Windows reserves it for a device" if _DEVICE.fullmatch(name) else None


def is_inside(path: str) -> bool:
    """Whether a path is inside a root: relative, without `..` or anything else that could lead out of it."""
    return not any(part in ("", ".", "..") or "\0" in part for part in path.split("/"))


def require_inside(path: str, uri: str) -> None:
    """Raise StorageError unless a path is inside a storage's root; it may end with a slash."""
    if not is_inside(path.rstrip("/")):
        raise StorageError.because(f"path '{path}' is not inside {uri}", "use a relative path without ..")


@dataclass(frozen=True)
class StoredFile:
    """A file as listed. path: relative to the storage's root."""

    path: str
    bytes: int
    modified_at: datetime


class Storage(ABC):
    """Files under one root, named by relative paths with forward slashes.

    Drivers' errors are raised as StorageError, those for a missing file as MissingFileError. Workers open the storage
    again by its `uri`.
    """

    uri: str

    def uri_of(self, path: str) -> str:
        """Return the URI of a path, such as that of a Delta table, with the parameters of the storage's URI."""
        root, mark, query = self.uri.partition("?")
        return f"{root.rstrip('/')}/{quote(path, safe='/=+')}{mark}{query}"

    @abstractmethod
    def open_input(self, path: str) -> pa.NativeFile:
        """Open a file for random reads. Raises MissingFileError."""

    def read_range(self, path: str, start: int, size: int) -> pa.Buffer:
        """Read some bytes of a file without fetching the others. Raises MissingFileError."""
        with self.open_input(path) as file:
            file.seek(start)
            return file.read_buffer(size)

    def open_partial(self, path: str, size: int) -> PartialInput:  # noqa: ARG002  # for those that fetch parts
        """Open a file to read parts of it. size: in bytes.

        Raises MissingFileError; parts of a file with another size cannot be loaded.
        """
        return WholeInput(self.open_input(path))

    @abstractmethod
    def open_output(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """Open a new file for writing; it is durable when the context ends, and deleted if it ends with an error."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a small file atomically; False, changing nothing, if the file exists."""

    @abstractmethod
    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        """List the files below a folder, sorted by path; none if it does not exist.

        name_prefix: only entries of the folder whose names begin with it, and the files below them

        Raises StorageError if the folder, or one below it, cannot be listed.
        """

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; a missing one is not an error."""


def open_storage(uri: str) -> Storage:
    """Open the storage at a URI: `file:///path/to/folder` or `s3://bucket/prefix?endpoint=…&region=…`.

    Raises ConfigError for another scheme.
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
