"""Compares feature sets at rest, or feature rows in memory, in parts small enough for any size of them."""

from __future__ import annotations

from collections.abc import Sequence

from delorean.audit.comparison.comparer import Comparer
from delorean.audit.comparison.parts import parts_of
from delorean.audit.comparison.result import FeatureComparison
from delorean.audit.comparison.side import Side, Source
from schemas.errors import ConfigError


def compare_feature_sets(
    before: Source,
    after: Source,
    *,
    context: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    values_at_once: int = 8_000_000,
) -> FeatureComparison:
    """Compare two versions of features: per feature whether it is equal, and how much it changed.

    before, after: feature sets, (uri of a Delta table, version), the uri alone for its newest version, or Arrow tables
        of the same columns
    context, items: the variables that tell rows and items apart; None: as the lineage of a feature set names them.
        Without lineage every list of floats is a feature
    values_at_once: bounds memory, by how many values of both sides are compared at a time

    Rows are compared in parts: buckets of the context variable that spreads them most evenly, as many as bound the
    memory of one. Keys are read once before, to see how many that takes. Where each file has rows of one part only, as
    those in buckets have, it is read once; else all columns compared are first written into a temporary file, dealt.

    Raises ConfigError for what is no feature set, or for sets of other variables; MissingFileError where a version's
    files are gone; DataKeyError for columns of other types, LabelError for rows that repeat a context and time.
    """
    told = context is not None and items is not None
    sides = [Side.of(source, lineage=not told) for source in (before, after)]
    variables = []
    for what, given in (("context", context), ("items", items)):
        known = {tuple(side.keys[what]) for side in sides if what in side.keys} if given is None else {tuple(given)}
        if len(known) != 1:
            problem = " and ".join(" + ".join(names) for names in sorted(known)) or "not told, and no lineage tells"
            raise ConfigError.because(f"{what} of the two sides: {problem}", f'name them: {what}=("…",)')
        variables.append(known.pop())
    features = [side.features(variables[1]) for side in sides]
    comparer = Comparer(*variables, *features)
    for part in parts_of(sides, comparer.context, comparer.columns, values_at_once):
        comparer.add(*part)
    return comparer.result(sides[0].name, sides[1].name)
