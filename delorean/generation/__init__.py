"""Label data and snapshots in, feature sets out.

A feature set is a Delta table with one row for each context and time: the context's variables, `time`, `outcome_at`,
each item variable as a list, `label` and each feature as list<float32> aligned with the items, for each data element
`<element>_captured_at`, and `latest_input_at`, the latest of them.
"""

from delorean.generation.feature_set import FeatureSet, lineage_of
from delorean.generation.generate import generate
from delorean.generation.plan import AsOf

__all__ = ["AsOf", "FeatureSet", "generate", "lineage_of"]
