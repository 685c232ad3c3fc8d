"""DeLorean: a feature time machine.

`open_project` opens a project and shows what is in it. `TimeMachine` travels to the state of past moments;
`day_coverage` and `label_coverage` say what is there. `generate` makes features of label data from it;
`check_feature_set` and `compare_encoders` look at what came of it. `as_of_join` is the rule that all rest on, for any
Arrow tables; `as_of_join_spark` for DataFrames of any size.
"""

from __future__ import annotations

import os
import sys

# `python -m delorean` puts the working folder first on the path, mostly a project's: its files would hide ours and
# Python's. It comes last, before anything else is imported, unless it is where this package lies.
_first = os.path.abspath(sys.path[0]) if sys.argv[:1] == ["-m"] and sys.path else None
if _first == os.getcwd() and _first != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    sys.path.append(sys.path.pop(0))

from typing import TYPE_CHECKING  # noqa: E402  # the path comes first

from delorean.telemetry import disable_telemetry  # noqa: E402  # as above
from schemas.lazy import lazily  # noqa: E402  # as above

disable_telemetry()  # before anything imports what would report

if TYPE_CHECKING:
    from delorean.as_of.join import as_of_join
    from delorean.as_of.spark_join import as_of_join_spark
    from delorean.audit.comparison import compare_encoders, compare_feature_sets
    from delorean.audit.paradox import check_feature_set
    from delorean.coverage import day_coverage, label_coverage
    from delorean.experiment import ExperimentSpec
    from delorean.generation import generate
    from delorean.labels import LabelColumns
    from delorean.labels.materialise import materialise_labels
    from delorean.leaks import LeakThresholds
    from delorean.project.open_project import OpenProject, open_project
    from delorean.state.rules import AsOf, ConfidenceFloor, SpreadLimit
    from delorean.time_travel import TimeMachine

__version__ = "0.1.0"
__all__ = [
    "AsOf",
    "ConfidenceFloor",
    "ExperimentSpec",
    "LabelColumns",
    "LeakThresholds",
    "OpenProject",
    "SpreadLimit",
    "TimeMachine",
    "as_of_join",
    "as_of_join_spark",
    "check_feature_set",
    "compare_encoders",
    "compare_feature_sets",
    "day_coverage",
    "generate",
    "label_coverage",
    "materialise_labels",
    "open_project",
]

# Imported when first used: compiled kernels and Spark take a second that `delorean --help` need not wait for.
__getattr__ = lazily(
    __name__,
    {
        "AsOf": "delorean.state.rules",
        "ConfidenceFloor": "delorean.state.rules",
        "ExperimentSpec": "delorean.experiment",
        "LabelColumns": "delorean.labels",
        "LeakThresholds": "delorean.leaks",
        "OpenProject": "delorean.project.open_project",
        "SpreadLimit": "delorean.state.rules",
        "TimeMachine": "delorean.time_travel",
        "as_of_join": "delorean.as_of.join",
        "as_of_join_spark": "delorean.as_of.spark_join",
        "check_feature_set": "delorean.audit.paradox",
        "compare_encoders": "delorean.audit.comparison",
        "compare_feature_sets": "delorean.audit.comparison",
        "day_coverage": "delorean.coverage",
        "generate": "delorean.generation",
        "label_coverage": "delorean.coverage",
        "materialise_labels": "delorean.labels.materialise",
        "open_project": "delorean.project.open_project",
    },
)


def __dir__() -> list[str]:
    """Name what is public, imported yet or not."""
    return sorted([*__all__, "__version__"])
