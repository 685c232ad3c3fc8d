"""Label data and snapshots in, feature sets out.

A feature set is a Delta table with one row for each context and time: the context's variables, `time`, `outcome_at`,
each item variable as a list, `label` and each feature as list<float32> aligned with the items; for each service's
element `<element>_captured_at` and `<element>_run_id`, for each global one `<element>_captured_at` (valid from) and
`<element>_version_id`; then `latest_input_at`, the latest of these times, `spread_seconds`, from the oldest to the
newest capture by a service, and `confidence`, the lowest of the runs that served the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delorean.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from delorean.feature_sets.table import FeatureSet, lineage_of
    from delorean.generation.job import generate
    from delorean.state.requirements import AsOf, ConfidenceFloor, SpreadLimit
    from delorean.state.sources import Pinned

__all__ = ["AsOf", "ConfidenceFloor", "FeatureSet", "Pinned", "SpreadLimit", "generate", "lineage_of"]

# Imported when first used: executors need none of what only the driver does, such as Delta's commits.
__getattr__ = lazy_getattr(
    __name__,
    {
        "AsOf": "delorean.state.requirements",
        "ConfidenceFloor": "delorean.state.requirements",
        "FeatureSet": "delorean.feature_sets.table",
        "Pinned": "delorean.state.sources",
        "SpreadLimit": "delorean.state.requirements",
        "generate": "delorean.generation.job",
        "lineage_of": "delorean.feature_sets.table",
    },
)
