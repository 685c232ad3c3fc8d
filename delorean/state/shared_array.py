"""Arrays that the Python workers of an executor share: one of them makes it, and all map it into their memory.

Spark gives workers a folder that vanishes with their executor. Elsewhere, as in a notebook's own process, arrays are
plain ones: there is nobody to share with.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

_PATIENCE_SECONDS = 60.0  # for another worker that makes the array: one that hangs must not stop its neighbours
_LOOK_SECONDS = 0.01
_folder: Path | None = None


def share_in(folder: Path | None) -> None:
    """Share arrays with the processes that were given the same folder."""
    global _folder  # of a process there is one executor
    _folder = folder


def folder_of_executor() -> Path | None:
    """Name the folder that Spark gives the workers of an executor."""
    first = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return Path(first) if first else None


def shared_array(name: str, make: Callable[[], pa.Array]) -> pa.Array:
    """Give an array that is made once in an executor; a plain one where it cannot be shared, as on a full disk.

    name: the same for the same content alone, in letters that a file's name may have
    """
    if _folder is None:
        return make()
    path = _folder / f"delorean-{name}.arrow"
    made: list[pa.Array] = []
    with suppress(OSError):  # a TimeoutError is one
        if not path.exists():
            with _turn(path):
                if not path.exists():
                    made.append(make())
                    _write(made[0], path)
        return _mapped(path)
    return made[0] if made else make()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold the right to make a file, or wait until it is there; it is let go of by a process that dies.

    Raises TimeoutError when another takes too long.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with path.with_suffix(".lock").open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_LOOK_SECONDS)
        yield


def _write(array: pa.Array, path: Path) -> None:
    """Write a file that is whole whenever it is there."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    batch = pa.record_batch({"array": array})
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _mapped(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
