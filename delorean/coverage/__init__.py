"""Coverage planning: which contexts one can travel to and what labels would find, before anything is generated."""

from delorean.coverage.days import day_coverage
from delorean.coverage.labels import label_coverage
from delorean.coverage.result import Cell, Coverage, DayCoverage, LabelCoverage, Spans
from delorean.coverage.search import Absent

__all__ = ["Absent", "Cell", "Coverage", "DayCoverage", "LabelCoverage", "Spans", "day_coverage", "label_coverage"]
