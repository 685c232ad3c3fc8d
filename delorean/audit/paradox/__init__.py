"""Checks stored feature sets: no row may contain what could not be known at its time.

`check_feature_set(uri)` reads any version of a feature set and compares every row with the lineage, the index and its
own columns, with code that is independent of generation.
"""

from delorean.audit.paradox.check import check_feature_set
from delorean.audit.paradox.report import Finding, ParadoxReport

__all__ = ["Finding", "ParadoxReport", "check_feature_set"]
