"""Label data and snapshots in, feature sets out.

A feature set is a Delta table with one row for each context and time: the context's variables, `time`, `outcome_at`,
each item variable as a list, `label` and each feature as list<float32> aligned with the items; for each service's
element `<element>_captured_at` and `<element>_run_id`, for each global one `<element>_captured_at` (valid from) and
`<element>_version_id`; then `latest_input_at`, the latest of these times, `spread_seconds`, from the oldest to the
newest capture by a service, and `confidence`, the lowest of the runs that served the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delorean.generation.feature_set import FeatureSet, lineage_of
    from delorean.generation.job import generate
    from delorean.generation.rules import AsOf, ConfidenceFloor, SpreadLimit
    from delorean.generation.sources import Pinned

__all__ = ["AsOf", "ConfidenceFloor", "FeatureSet", "Pinned", "SpreadLimit", "generate", "lineage_of"]

# Imported when first used: executors need none of what only the driver does, such as Delta's commits.
_HOMES = {
    "AsOf": "rules",
    "ConfidenceFloor": "rules",
    "FeatureSet": "feature_set",
    "Pinned": "sources",
    "SpreadLimit": "rules",
    "generate": "job",
    "lineage_of": "feature_set",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'delorean.generation' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"delorean.generation.{_HOMES[name]}"), name)
