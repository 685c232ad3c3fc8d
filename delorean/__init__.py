"""DeLorean: a feature time machine.

`TimeMachine` travels to the state of past moments, `generate` makes features of label data from it, and `as_of_join`
is the rule both rest on, for any Arrow tables; `as_of_join_spark` for DataFrames of any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delorean.as_of import as_of_join
    from delorean.as_of_spark import as_of_join_spark
    from delorean.generation import AsOf, generate
    from delorean.labels import LabelColumns
    from delorean.labels.materialise import materialise_labels
    from delorean.time_travel import TimeMachine

__version__ = "0.1.0"
__all__ = ["AsOf", "LabelColumns", "TimeMachine", "as_of_join", "as_of_join_spark", "generate", "materialise_labels"]

# Imported when first used: compiled kernels and Spark take a second that `delorean --help` need not wait for.
_HOMES = {
    "AsOf": "delorean.generation",
    "LabelColumns": "delorean.labels",
    "TimeMachine": "delorean.time_travel",
    "as_of_join": "delorean.as_of",
    "as_of_join_spark": "delorean.as_of_spark",
    "generate": "delorean.generation",
    "materialise_labels": "delorean.labels.materialise",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'delorean' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
