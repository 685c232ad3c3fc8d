"""Coverage planning: which contexts have state on which days, and how much state label data would see."""

from delorean.coverage.days import day_coverage
from delorean.coverage.element_search import AbsenceReason
from delorean.coverage.labels import label_coverage
from delorean.coverage.result import Coverage, CoverageCell, DayCoverage, LabelCoverage, Spans

__all__ = [
    "AbsenceReason",
    "Coverage",
    "CoverageCell",
    "DayCoverage",
    "LabelCoverage",
    "Spans",
    "day_coverage",
    "label_coverage",
]
