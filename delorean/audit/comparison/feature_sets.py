"""Compares feature sets at rest, or feature rows in memory, in parts, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence

from delorean.audit.comparison.comparer import Comparer
from delorean.audit.comparison.feature_source import ComparedSide, FeatureSource
from delorean.audit.comparison.partitions import parts_of
from delorean.audit.comparison.result import FeatureComparison
from schemas.errors import ConfigError


def compare_feature_sets(
    before: FeatureSource,
    after: FeatureSource,
    *,
    context: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    values_at_once: int = 8_000_000,
) -> FeatureComparison:
    """Compare two versions of features: per feature whether it is equal, and how much it changed.

    before, after: feature sets, (uri of a Delta table, version), the uri alone for its newest version, or Arrow tables
        of the same columns
    context, items: the variables that identify rows and items; None: those in the lineage of a feature set. Without
        lineage every list of floats is a feature
    values_at_once: bounds memory: the number of values of both sides that are compared at a time

    Rows are compared in parts: buckets of the context variable that distributes them most evenly, as many as needed to
    bound the memory of one. Keys are read once before, to determine that number. Where each file has rows of one part
    only, as bucketed files have, it is read once; otherwise all compared columns are sorted into a temporary file.

    Raises ConfigError for what is not a feature set, or for sets of other variables; MissingFileError where a version's
    files are missing; DataKeyError for columns of other types, LabelError for rows that repeat a context and time.
    """
    named = context is not None and items is not None
    sides = [ComparedSide.of(source, lineage=not named) for source in (before, after)]
    variables = [_variables(sides, "context", context), _variables(sides, "items", items)]
    features = [side.features(variables[1]) for side in sides]
    labels = _labels(sides)
    comparer = Comparer(variables[0], variables[1], features[0], features[1], labels)
    for part in parts_of(sides, comparer.context, comparer.columns, values_at_once, comparer.items[0]):
        comparer.add(*part)
    return comparer.result(sides[0].name, sides[1].name)


def _labels(sides: Sequence[ComparedSide]) -> list[str]:
    """Return the labels of both sides. Raises ConfigError if they differ."""
    before, after = (side.labels for side in sides)
    if before != after:
        shown = " and ".join(", ".join(labels) or "none" for labels in (before, after))
        raise ConfigError.because(f"the two sides have different labels: {shown}", "compare sets with the same labels")
    return before


def _variables(sides: Sequence[ComparedSide], what: str, named: Sequence[str] | None) -> tuple[str, ...]:
    """Return the variables that identify rows or items, as named or as in the lineages of both sides."""
    if named is not None:
        return tuple(named)
    recorded = {tuple(side.keys[what]) for side in sides if what in side.keys}
    if len(recorded) != 1:
        problem = " and ".join(" + ".join(names) for names in sorted(recorded)) or "not named, and in no lineage"
        raise ConfigError.because(f"{what} of the two sides: {problem}", f'name them: {what}=("…",)')
    return recorded.pop()
