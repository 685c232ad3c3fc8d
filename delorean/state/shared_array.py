"""Arrays that the Python workers of an executor share: one worker builds the array, and all map it into their memory.

Spark gives workers a folder that is deleted with their executor. Elsewhere, as in a notebook's own process, arrays are
ordinary ones.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

_PATIENCE_SECONDS = 60.0  # how long to wait for another worker's array: a hung worker must not stop the others
_POLL_SECONDS = 0.01
_folder: Path | None = None


def share_in(folder: Path | None) -> None:
    """Share arrays with the processes that use the same folder."""
    global _folder  # a process belongs to one executor
    _folder = folder


def folder_of_executor() -> Path | None:
    """Return the folder that Spark gives the workers of an executor."""
    first = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return Path(first) if first else None


def shared_array(name: str, build: Callable[[], pa.Array]) -> pa.Array:
    """Return an array that is built once in an executor; an unshared one where sharing fails, as on a full disk.

    name: identifies the content, in characters that a file name may have
    """
    if _folder is None:
        return build()
    path = _folder / f"delorean-{name}.arrow"
    built: list[pa.Array] = []
    with suppress(OSError):  # TimeoutError included
        if not path.exists():
            with _locked(path):
                if not path.exists():
                    built.append(build())
                    _write(built[0], path)
        return _map(path)
    return built[0] if built else build()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock for building a file; a process that dies releases it.

    Raises TimeoutError when another process holds it too long.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with path.with_suffix(".lock").open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_POLL_SECONDS)
        yield


def _write(array: pa.Array, path: Path) -> None:
    """Write a file that appears only when it is complete."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    batch = pa.record_batch({"array": array})
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _map(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
