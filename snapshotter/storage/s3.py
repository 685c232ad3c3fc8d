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
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from schemas.errors import MissingFileError, StorageError
from snapshotter.storage import Storage, StoredFile, is_inside, require_inside
from snapshotter.storage.s3_client import delta_options, endpoint_of, forget_clients, s3_client
from snapshotter.storage.s3_errors import CONNECTION_LOST, code_of, is_missing, problem_of
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.temporary_file import temporary_file, write_at

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

    A file is fetched completely, once, into an unlinked temporary file that is mapped, and sent from one: neither takes
    memory, and nothing is visible before the last byte has arrived. Writes are conditional on the name being free: S3
    and MinIO respect that; a server that ignores `If-None-Match` would overwrite.
    """

    def __init__(self, uri: str) -> None:
        self.location = S3Location.of(uri)
        self.uri = uri

    def open_input(self, path: str) -> pa.NativeFile:
        """Fetch the file. Raises MissingFileError."""
        key = self._key(path)
        with temporary_file(path, "read") as file, self._translated(path, "read"):
            size = self._fetch(key, file, 0)
            with ThreadPoolExecutor(_PARALLEL_REQUESTS) as threads:
                for _ in threads.map(partial(self._fetch, key, file), range(_READ_BYTES, size, _READ_BYTES)):
                    pass  # raises what the thread raised
            if size == 0:
                return pa.BufferReader(b"")  # an empty file cannot be mapped
            return pa.BufferReader(pa.py_buffer(mmap.mmap(file, size, prot=mmap.PROT_READ)))

    def read_range(self, path: str, start: int, size: int) -> pa.Buffer:
        """Fetch only these bytes, into memory. Raises MissingFileError."""
        key, data = self._key(path), bytearray()
        with self._translated(path, "read"):
            self._receive(key, start, start + size, lambda chunk, _: data.extend(chunk))
        return pa.py_buffer(data)

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

    def _fetch(self, key: str, file: int, start: int) -> int:
        """Copy a range of an object to the same place in a file; return the object's size."""
        return self._receive(key, start, start + _READ_BYTES, partial(write_at, file))

    def _receive(self, key: str, start: int, end: int, write: Callable[[bytes, int], None]) -> int:
        """Pass on a range of an object, resuming where the connection was lost; return the object's size.

        write: called with the next bytes and their offset in the object
        """
        offset, attempt = start, 0
        while True:
            attempt += 1
            try:
                response = self._client.get_object(
                    Bucket=self.location.bucket, Key=key, Range=f"bytes={offset}-{end - 1}"
                )
            except ClientError as error:
                if code_of(error) == "InvalidRange" and offset == 0:
                    return 0
                raise
            try:
                with closing(response["Body"]) as body:
                    while chunk := body.read(_CHUNK_BYTES):
                        write(chunk, offset)
                        offset += len(chunk)
                return int(response["ContentRange"].rpartition("/")[2])
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


def _wait(attempt: int) -> None:
    """Wait before the next attempt: exponential backoff with full jitter."""
    time.sleep(random.random() * 2 ** min(attempt - 1, 4))  # noqa: S311  # so that workers do not retry at the same time
