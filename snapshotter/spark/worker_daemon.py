"""Spark's daemon for Python workers: it imports what tasks need once, and workers are forked from it.

Spark starts it as `python -m snapshotter.spark.worker_daemon pyspark.worker`, in place of `pyspark.daemon`. There, each
worker imports pandas, Arrow and Numba by itself, 1.6 s of a core for each core of a machine, and again whenever workers
have ended after a minute without work. A worker also collects garbage after each task, which takes 80 ms for the
objects of these modules; here the collector leaves them out, and workers share their memory.
"""

from __future__ import annotations

import gc
import importlib
import sys
from contextlib import suppress

from pyspark import daemon

_MODULES = ("pyspark.worker", "pyspark.sql.pandas.serializers", "pandas", "pyarrow.dataset", "numba")


def preload() -> None:
    """Import what tasks need, and leave it out of garbage collection. What is missing fails later, in the task."""
    with suppress(ImportError):
        for name in _MODULES:
            importlib.import_module(name)
        _load_compiler()
    gc.collect()
    gc.freeze()


def _load_compiler() -> None:
    """Load the types and functions that Numba knows; otherwise each worker does, for the first function it loads."""
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


if __name__ == "__main__":
    if sys.platform == "linux":  # macOS ends processes that fork after its system libraries have been used
        preload()
    daemon.manager()
