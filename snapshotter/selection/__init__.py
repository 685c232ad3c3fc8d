"""Selects the contexts of a date, per experiment, and reads context sets.

`select_contexts` is imported when first used: it needs Spark, which reading context sets does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_getattr
from snapshotter.selection.context_sets import (
    ExperimentContexts,
    context_set_schema,
    contexts_of,
    read_context_set,
    read_contexts,
)
from snapshotter.selection.declarations import ContextSelection, NamedSelection, load_selections

if TYPE_CHECKING:
    from snapshotter.selection.context_selection import select_contexts

__all__ = [
    "ContextSelection",
    "ExperimentContexts",
    "NamedSelection",
    "context_set_schema",
    "contexts_of",
    "load_selections",
    "read_context_set",
    "read_contexts",
    "select_contexts",
]

__getattr__ = lazy_getattr(__name__, {"select_contexts": "snapshotter.selection.context_selection"})
