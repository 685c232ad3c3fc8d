"""Compares two versions of features: which are equal, and which changed, in how many rows, by how much.

Equal means bit for bit: −0 is not 0, and an unknown value equals only one with the same bits (null is not NaN).
Rows are matched by context and time and their items by value, never by position.
"""

from delorean.audit.comparison.encoder_versions import compare_encoders
from delorean.audit.comparison.feature_sets import compare_feature_sets
from delorean.audit.comparison.result import ChangeStatus, FeatureChange, FeatureComparison

__all__ = ["ChangeStatus", "FeatureChange", "FeatureComparison", "compare_encoders", "compare_feature_sets"]
