"""Storage in a bucket of S3, or of a server that speaks its protocol.

pyarrow's own S3 files are not used: one that is closed by an error appears all the same, none can be created on
condition that the name is free, and their errors have no codes.
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
from snapshotter.storage.s3_client import access, delta_options, endpoint_of, forget_clients
from snapshotter.storage.s3_errors import CUT, code_of, is_missing, problem_of
from snapshotter.storage.s3_location import S3Location
from snapshotter.storage.temporary_file import temporary_file, write_at

_READ_AT_ONCE = 32 << 20  # bytes a request; larger files are read by several, side by side
_WRITE_AT_ONCE = 8 << 20  # S3 takes no parts below 5 MiB but the last
_MOST_PARTS = 10_000
_SIDE_BY_SIDE = 4
_CHUNK = 1 << 20
_DELETED_AT_ONCE = 1_000
_WRITER = "writer"  # metadata that tells whose write it was, should the answer have been lost


class S3Storage(Storage):
    """A bucket, or what lies below a prefix in it.

    uri: `s3://bucket/prefix?endpoint=…&region=…`, see `S3Location`

    Files are fetched whole, once, into an unlinked temporary file that is mapped, and sent from one: neither takes
    memory, and nothing is visible before the last byte has arrived. A name is taken on condition that nobody has it:
    S3 and MinIO keep to it; a server that ignores `If-None-Match` would overwrite.
    """

    def __init__(self, uri: str) -> None:
        self.place = S3Location.of(uri)
        self.uri = uri

    def open_input(self, path: str) -> pa.NativeFile:
        """Fetch the file. Raises MissingFileError."""
        key = self._key(path)
        with temporary_file(path, "read") as file, self._translated(path, "read"):
            size = self._fetch(key, file, 0)
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
                for _ in threads.map(partial(self._fetch, key, file), range(_READ_AT_ONCE, size, _READ_AT_ONCE)):
                    pass  # raises what the thread has raised
            if size == 0:
                return pa.BufferReader(b"")  # an empty file cannot be mapped
            return pa.BufferReader(pa.py_buffer(mmap.mmap(file, size, prot=mmap.PROT_READ)))

    @contextmanager
    def open_output(self, path: str) -> Iterator[pa.NativeFile]:
        """Write into a temporary file, then send it, in parts if it is large."""
        key = self._key(path)
        with temporary_file(path, "write") as file:
            with pa.PythonFile(open(file, "wb", closefd=False), "w") as sink:
                yield sink
            with self._translated(path, "write"):
                if not self._send(key, os.fstat(file).st_size, partial(os.pread, file)):
                    raise StorageError.because(f"'{path}' is there already: files are never written twice")

    def create(self, path: str, data: bytes) -> bool:
        """Put the file if none has its name."""
        key = self._key(path)
        with self._translated(path, "write"):
            return self._send(key, len(data), lambda size, start: data[start : start + size])

    def list(self, prefix: str, name_prefix: str = "") -> Iterator[StoredFile]:
        """List the files below a folder; keys that no path can name, such as the markers of folders, are none."""
        folder = self._key(prefix) + "/" if prefix.strip("/") else self.place.prefix
        with self._translated(prefix, "list"):
            pager = self._client.get_paginator("list_objects_v2")
            pages = iter(pager.paginate(Bucket=self.place.bucket, Prefix=folder + name_prefix))
        while True:
            with self._translated(prefix, "list"):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", ()):
                path = found["Key"].removeprefix(self.place.prefix)
                if is_inside(path):
                    yield StoredFile(path, found["Size"], found["LastModified"])

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files, a thousand at a time."""
        keys = ({"Key": self._key(path)} for path in paths)
        while batch := list(islice(keys, _DELETED_AT_ONCE)):
            with self._translated(batch[0]["Key"].removeprefix(self.place.prefix), "delete"):
                answer = self._client.delete_objects(Bucket=self.place.bucket, Delete={"Objects": batch, "Quiet": True})
            for refused in answer.get("Errors", ()):
                with self._translated(refused["Key"].removeprefix(self.place.prefix), "delete"):
                    raise ClientError({"Error": refused}, "DeleteObjects")

    def delta_options(self) -> dict[str, str]:
        """Give the storage options of deltalake and Polars, with credentials by the same chain; they are secret."""
        with self._translated("", "find credentials"):
            return delta_options(self.place.server)

    @property
    def _client(self) -> Any:
        return access(self.place.server).client

    def _key(self, path: str) -> str:
        require_inside(path, self.uri)
        return self.place.prefix + path.rstrip("/")

    def _fetch(self, key: str, file: int, start: int) -> int:
        """Copy a stretch of an object, going on where the connection was cut; gives the size of the whole."""
        place, end = start, start + _READ_AT_ONCE
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._client.get_object(Bucket=self.place.bucket, Key=key, Range=f"bytes={place}-{end - 1}")
            except ClientError as error:
                if code_of(error) == "InvalidRange" and place == 0:
                    return 0
                raise
            try:
                with closing(answer["Body"]) as body:
                    while chunk := body.read(_CHUNK):
                        write_at(file, chunk, place)
                        place += len(chunk)
                return int(answer["ContentRange"].rpartition("/")[2])
            except CUT:  # before that the driver has tried again by itself
                if attempt >= self.place.server.attempts:
                    raise
                _wait(attempt)

    def _send(self, key: str, size: int, piece: Callable[[int, int], bytes]) -> bool:
        """Store bytes under a key that nobody has; False if somebody has it. piece: gives some, from a start on."""
        target = {"Bucket": self.place.bucket, "Key": key}
        writer = {_WRITER: uuid.uuid4().hex}
        attempt = 0
        while True:
            attempt += 1
            try:
                if size <= _WRITE_AT_ONCE:
                    self._client.put_object(**target, Body=piece(size, 0), IfNoneMatch="*", Metadata=writer)
                else:
                    self._send_parts(target, size, piece, writer)
                return True
            except ClientError as error:
                code = code_of(error)
                if code in ("PreconditionFailed", "NoSuchUpload") and self._wrote(target, writer):
                    return True  # and only the answer was lost, so that the driver tried again
                if code == "PreconditionFailed":
                    return False
                if code != "ConditionalRequestConflict" or attempt >= self.place.server.attempts:
                    raise
                _wait(attempt)

    def _send_parts(
        self, target: dict[str, str], size: int, piece: Callable[[int, int], bytes], writer: dict[str, str]
    ) -> None:
        client, step = self._client, max(_WRITE_AT_ONCE, -(-size // _MOST_PARTS))
        upload = {**target, "UploadId": client.create_multipart_upload(**target, Metadata=writer)["UploadId"]}

        def send(start: int) -> dict[str, Any]:
            number = start // step + 1
            answer = client.upload_part(**upload, PartNumber=number, Body=piece(min(step, size - start), start))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
                parts = list(threads.map(send, range(0, size, step)))
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:  # whatever it was, the parts must not stay
            with suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(**upload)
            raise

    def _wrote(self, target: dict[str, str], writer: dict[str, str]) -> bool:
        try:
            found: dict[str, str] = self._client.head_object(**target)["Metadata"]
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        return found.get(_WRITER) == writer[_WRITER]

    @contextmanager
    def _translated(self, path: str, doing: str) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            endpoint = endpoint_of(self.place.server)
            where = f"key '{self.place.prefix + path}' of bucket '{self.place.bucket}' at {endpoint}"
            if is_missing(error):
                raise MissingFileError.because(f"'{path}' is not there: {where}") from error
            meaning = problem_of(error)
            if meaning.renew:
                forget_clients()
            what = f"{doing} '{path}'" if path else doing
            raise StorageError.because(f"could not {what}, {where}: {meaning.problem}", meaning.hint) from error


def _wait(attempt: int) -> None:
    """Wait before the next attempt, mostly longer each time."""
    time.sleep(random.random() * 2 ** min(attempt - 1, 4))  # noqa: S311  # lest all workers come back at once
