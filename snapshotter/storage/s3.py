"""Storage in a bucket of S3, or of a server with the same protocol.

pyarrow's own S3 files are not used: a file that is closed by an error appears nevertheless, a name cannot be written on
condition that it is free, and the errors have no codes.
"""

from __future__ import annotations

import mmap
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from schemas.errors import CorruptFileError, MissingFileError, StorageError
from snapshotter.storage import Storage, StoredFile, is_inside, require_inside
from snapshotter.storage.partial_input import PartialInput, Range, WholeInput, missing_ranges
from snapshotter.storage.s3_client import delta_options, endpoint_of, forget_clients, s3_client
from snapshotter.storage.s3_errors import CONNECTION_LOST, code_of, is_missing, problem_of
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.temporary_file import full_disk_errors, temporary_file, write_at

_SMALL_BYTES = 256 << 10  # fetching so many bytes takes about as long as another request
_READ_BYTES = 32 << 20  # of a request; larger files are read by several requests in parallel
_PART_BYTES = 8 << 20  # S3 accepts no part below 5 MiB except the last
_MOST_PARTS = 10_000
_PARALLEL_REQUESTS = 4
_CHUNK_BYTES = 1 << 20
_DELETED_PER_REQUEST = 1_000
_WRITER = "writer"  # metadata that identifies a write whose response was lost


class S3Storage(Storage):
    """A bucket, or a prefix in it.

    uri: `s3://bucket/prefix?endpoint=…&region=…`, see `S3Location`

    A file, or the parts of it that are read, is fetched once into an unlinked temporary file that is mapped, and sent
    from one: neither takes memory, and nothing is visible before the last byte has arrived. All parts are of one state
    of the file. Writes are conditional on a free name: S3 and MinIO respect that; other servers may overwrite.
    """

    def __init__(self, uri: str) -> None:
        self.location = S3Location.of(uri)
        self.uri = uri

    def open_input(self, path: str) -> pa.NativeFile:
        """Fetch the file. Raises MissingFileError."""
        key = self._key(path)
        with temporary_file(path, "read") as file, self._translated(path, "read"):
            size, tag = self._fetch(key, file, (0, _READ_BYTES))
            self._fetch_all(key, file, [(_READ_BYTES, size)], tag)
            if size == 0:
                return pa.BufferReader(b"")  # an empty file cannot be mapped
            return pa.BufferReader(pa.py_buffer(mmap.mmap(file, size, prot=mmap.PROT_READ)))

    def read_range(self, path: str, start: int, size: int) -> pa.Buffer:
        """Fetch only these bytes, into memory. Raises MissingFileError."""
        with temporary_file(path, "read") as file, self._translated(path, "read"):
            self._fetch(self._key(path), file, (start, start + size))
            return pa.py_buffer(os.pread(file, size, start))

    def open_partial(self, path: str, size: int) -> PartialInput:
        """Open a file whose parts are fetched when they are needed. A small file is fetched as a whole."""
        return WholeInput(self.open_input(path)) if size <= _SMALL_BYTES else _PartialObject(self, path, size)

    @contextmanager
    def open_output(self, path: str) -> Iterator[pa.NativeFile]:
        """Write to a temporary file, then send it, in parts if it is large."""
        key = self._key(path)
        with temporary_file(path, "write") as file:
            with pa.PythonFile(open(file, "wb", closefd=False), "w") as sink:
                yield sink
            with self._translated(path, "write"):
                if not self._send(key, os.fstat(file).st_size, partial(os.pread, file)):
                    raise StorageError.because(f"'{path}' exists already: files are never overwritten")

    def create(self, path: str, data: bytes) -> bool:
        """Write the file on condition that its name is free."""
        key = self._key(path)
        with self._translated(path, "write"):
            return self._send(key, len(data), lambda size, start: data[start : start + size])

    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        """List the files below a folder, without keys that are no valid paths, such as the markers of folders."""
        folder = self._key(prefix) + "/" if prefix.strip("/") else self.location.prefix
        with self._translated(prefix, "list"):
            pager = self._client.get_paginator("list_objects_v2")
            pages = iter(pager.paginate(Bucket=self.location.bucket, Prefix=folder + name_prefix))
        while True:
            with self._translated(prefix, "list"):
                page = next(pages, None)
            if page is None:
                return
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(self.location.prefix)
                if is_inside(path):
                    yield StoredFile(path, entry["Size"], entry["LastModified"])

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files, a thousand at a time."""
        keys = ({"Key": self._key(path)} for path in paths)
        while batch := list(islice(keys, _DELETED_PER_REQUEST)):
            with self._translated(batch[0]["Key"].removeprefix(self.location.prefix), "delete"):
                response = self._client.delete_objects(
                    Bucket=self.location.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            for failed in response.get("Errors", ()):
                with self._translated(failed["Key"].removeprefix(self.location.prefix), "delete"):
                    raise ClientError({"Error": failed}, "DeleteObjects")

    def delta_options(self) -> dict[str, str]:
        """Return the storage options of deltalake and Polars, which contain credentials."""
        with self._translated("", "find credentials"):
            return delta_options(self.location.server)

    @property
    def _client(self) -> Any:
        return s3_client(self.location.server).client

    def _key(self, path: str) -> str:
        require_inside(path, self.uri)
        return self.location.prefix + path.rstrip("/")

    def _fetch_all(self, key: str, file: int, ranges: Iterable[Range], tag: str) -> None:
        """Copy ranges of an object that has not changed, by several requests in parallel."""
        pieces = [
            (first, min(first + _READ_BYTES, end)) for start, end in ranges for first in range(start, end, _READ_BYTES)
        ]
        if len(pieces) == 1:
            self._fetch(key, file, pieces[0], tag)
        elif pieces:
            with ThreadPoolExecutor(_PARALLEL_REQUESTS) as threads:
                for _ in threads.map(lambda piece: self._fetch(key, file, piece, tag), pieces):
                    pass  # raises what the thread raised

    def _fetch(self, key: str, file: int, piece: Range, tag: str | None = None) -> tuple[int, str]:
        """Copy a range of an object, resuming where the connection was lost; return the object's size and its tag.

        tag: that the object must have; None: any, and while a range is resumed the same
        """
        (offset, end), attempt = piece, 0
        while True:
            attempt += 1
            pinned = {} if tag is None else {"IfMatch": tag}
            try:
                response = self._client.get_object(
                    Bucket=self.location.bucket, Key=key, Range=f"bytes={offset}-{end - 1}", **pinned
                )
            except ClientError as error:
                if code_of(error) == "InvalidRange" and offset == 0:
                    return 0, ""
                if code_of(error) in ("PreconditionFailed", "InvalidRange"):
                    path = key.removeprefix(self.location.prefix)
                    problem = "is shorter than was published" if tag is None else "has changed since it was opened"
                    raise CorruptFileError.because(f"'{path}' {problem}", "restore the file from a copy") from error
                raise
            tag = response["ETag"]
            try:
                with closing(response["Body"]) as body:
                    while chunk := body.read(_CHUNK_BYTES):
                        write_at(file, chunk, offset)
                        offset += len(chunk)
                return int(response["ContentRange"].rpartition("/")[2]), response["ETag"]
            except CONNECTION_LOST:  # while reading the body; before that the driver retries itself
                if attempt >= self.location.server.attempts:
                    raise
                _wait(attempt)

    def _send(self, key: str, size: int, piece: Callable[[int, int], bytes]) -> bool:
        """Store bytes under a key if it is free; False if it is not. piece: (size, start) → bytes."""
        target = {"Bucket": self.location.bucket, "Key": key}
        writer = {_WRITER: uuid.uuid4().hex}
        attempt = 0
        while True:
            attempt += 1
            try:
                if size <= _PART_BYTES:
                    self._client.put_object(**target, Body=piece(size, 0), IfNoneMatch="*", Metadata=writer)
                else:
                    self._send_parts(target, size, piece, writer)
                return True
            except ClientError as error:
                code = code_of(error)
                if code in ("PreconditionFailed", "NoSuchUpload") and self._wrote(target, writer):
                    return True  # only the response was lost, and the driver tried again
                if code == "PreconditionFailed":
                    return False
                if code != "ConditionalRequestConflict" or attempt >= self.location.server.attempts:
                    raise
                _wait(attempt)

    def _send_parts(
        self, target: dict[str, str], size: int, piece: Callable[[int, int], bytes], writer: dict[str, str]
    ) -> None:
        client, step = self._client, max(_PART_BYTES, -(-size // _MOST_PARTS))
        upload = {**target, "UploadId": client.create_multipart_upload(**target, Metadata=writer)["UploadId"]}

        def send(start: int) -> dict[str, Any]:
            number = start // step + 1
            response = client.upload_part(**upload, PartNumber=number, Body=piece(min(step, size - start), start))
            return {"PartNumber": number, "ETag": response["ETag"]}

        try:
            with ThreadPoolExecutor(_PARALLEL_REQUESTS) as threads:
                parts = list(threads.map(send, range(0, size, step)))
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:  # of any kind: the parts must not stay
            with suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(**upload)
            raise

    def _wrote(self, target: dict[str, str], writer: dict[str, str]) -> bool:
        try:
            metadata: dict[str, str] = self._client.head_object(**target)["Metadata"]
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        return metadata.get(_WRITER) == writer[_WRITER]

    @contextmanager
    def _translated(self, path: str, doing: str) -> Iterator[None]:
        """Raise the driver's errors as ours."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            endpoint = endpoint_of(self.location.server)
            where = f"key '{self.location.prefix + path}' of bucket '{self.location.bucket}' at {endpoint}"
            if is_missing(error):
                raise MissingFileError.because(f"'{path}' does not exist: {where}") from error
            problem = problem_of(error)
            if problem.renew:
                forget_clients()
            what = f"{doing} '{path}'" if path else doing
            raise StorageError.because(f"could not {what}, {where}: {problem.problem}", problem.hint) from error


class _PartialObject(PartialInput):
    """An object of which ranges are fetched into an unnamed temporary file that is mapped.

    size: that it must have
    """

    def __init__(self, storage: S3Storage, path: str, size: int) -> None:
        self._storage, self._path, self._size = storage, path, size
        self._key = storage._key(path)
        self._tag: str | None = None
        self._loaded: list[Range] = []
        with ExitStack() as stack:
            self._copy = stack.enter_context(temporary_file(path, "read"))
            os.ftruncate(self._copy, size)
            self.file = pa.BufferReader(pa.py_buffer(mmap.mmap(self._copy, size, prot=mmap.PROT_READ)))
            self._stack = stack.pop_all()

    def load(self, ranges: Iterable[Range]) -> None:
        """Fetch what is missing of ranges, neighbours by one request; all that is missing, if that is most of it."""
        missing = missing_ranges(ranges, self._loaded, _SMALL_BYTES)
        if 2 * sum(end - start for start, end in missing) >= self._size:
            missing = missing_ranges([(0, self._size)], self._loaded, _SMALL_BYTES)
        if not missing:
            return
        storage, fetched = self._storage, missing
        with storage._translated(self._path, "read"), full_disk_errors(self._path, "read"):
            if self._tag is None:
                (start, end), *others = missing
                first = (start, min(end, start + _READ_BYTES))
                size, self._tag = storage._fetch(self._key, self._copy, first)
                if size != self._size:
                    raise CorruptFileError.because(
                        f"'{self._path}' has {size} bytes, {self._size} were published", "restore the file from a copy"
                    )
                missing = [(first[1], end), *others]
            storage._fetch_all(self._key, self._copy, missing, self._tag)
        self._loaded += fetched

    def forget(self) -> None:
        """Free the copy's pages and its space on disk."""
        os.ftruncate(self._copy, 0)
        os.ftruncate(self._copy, self._size)
        self._loaded = []

    def close(self) -> None:
        """Delete the copy; what was read from it stays mapped."""
        self.file.close()
        self._stack.close()


def _wait(attempt: int) -> None:
    """Wait before the next attempt: exponential backoff with full jitter."""
    time.sleep(random.random() * 2 ** min(attempt - 1, 4))  # noqa: S311  # so that workers do not retry at the same time
