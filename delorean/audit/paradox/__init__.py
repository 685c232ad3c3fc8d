"""The check of stored feature sets: that no row knows what could not be known at its time.

`check_feature_set(uri)` reads a feature set of any version again and holds every row against the lineage, the index
and itself, by code that shares nothing with the code that made it.
"""

from delorean.audit.paradox.check import check_feature_set
from delorean.audit.paradox.report import Finding, ParadoxReport

__all__ = ["Finding", "ParadoxReport", "check_feature_set"]
