"""Label data and snapshots in, feature sets out.

A feature set is a Delta table with one row for each context and time: the context's variables, `time`, `outcome_at`,
each item variable as a list, `label` and each feature as list<float32> aligned with the items; for each service's
element `<element>_captured_at` and `<element>_run_id`, for each global one `<element>_captured_at` (valid from) and
`<element>_version_id`; then `latest_input_at`, the latest of these times, `spread_seconds`, from the oldest to the
newest capture by a service, and `confidence`, the lowest of the runs that served the row.
"""

from delorean.generation.feature_set import FeatureSet, lineage_of
from delorean.generation.generate import generate
from delorean.generation.rules import AsOf, ConfidenceFloor, SpreadLimit
from delorean.generation.sources import Pinned

__all__ = ["AsOf", "ConfidenceFloor", "FeatureSet", "Pinned", "SpreadLimit", "generate", "lineage_of"]
