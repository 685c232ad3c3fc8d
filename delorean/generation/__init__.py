"""Generates feature sets from label data and snapshots.

A feature set is a Delta table with one row for each context and time: the context's variables, `time`, `outcome_at`,
each item variable as a list, `label` and each feature as list<float32> aligned with the items; for each service's
element `<element>_captured_at` and `<element>_run_id`, for each global one `<element>_captured_at` (valid from) and
`<element>_version_id`; then `latest_input_at`, the latest of these times, `spread_seconds`, from the oldest to the
newest capture by a service, and `confidence`, the lowest of the runs that served the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.generation.job import generate

__all__ = ["generate"]

# Executors need nothing that only the driver does, such as Delta.
__getattr__ = lazy_getattr(__name__, {"generate": "delorean.generation.job"})
