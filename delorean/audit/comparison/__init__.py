"""Two versions of features side by side: which are equal, and which changed, in how many rows, by how much.

Equal means bit for bit: −0 is not 0, and an unknown value equals only one of the same bits (null and NaN are apart).
Rows are matched by context and time and their items by value, never by position.
"""

from delorean.audit.comparison.encoder_versions import compare_encoders
from delorean.audit.comparison.feature_sets import compare_feature_sets
from delorean.audit.comparison.result import FeatureChange, FeatureComparison, Status

__all__ = ["FeatureChange", "FeatureComparison", "Status", "compare_encoders", "compare_feature_sets"]
