"""Spark sessions, jobs, errors and clusters, and the display of progress.

`spark_session` is imported when first used: it needs pyspark, which the display of progress does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_getattr
from snapshotter.spark.progress import Progress, command_progress, shown_progress

if TYPE_CHECKING:
    from snapshotter.spark.session import spark_session

__all__ = ["Progress", "command_progress", "shown_progress", "spark_session"]

__getattr__ = lazy_getattr(__name__, {"spark_session": "snapshotter.spark.session"})
