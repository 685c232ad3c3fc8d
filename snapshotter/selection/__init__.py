"""Selects the contexts of a date, per experiment, and reads context sets.

`select_contexts` is imported when first used: it needs Spark, which reading context sets does not.
"""

from typing import TYPE_CHECKING

from schemas.lazy import lazily
from snapshotter.selection.context_sets import context_set_schema, read_context_set
from snapshotter.selection.experiments import Experiment, load_experiments

if TYPE_CHECKING:
    from snapshotter.selection.context_selection import select_contexts

__all__ = ["Experiment", "context_set_schema", "load_experiments", "read_context_set", "select_contexts"]
__getattr__ = lazily(__name__, {"select_contexts": "snapshotter.selection.context_selection"})
