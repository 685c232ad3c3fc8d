"""Reads contexts that two packages score: from one feature set with the features of both, or from one for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.audit.comparison.alignment import align
from delorean.comparison.feature_data import FeatureData
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.context_sample import Eligible
from delorean.ranking_data.context_weights import ContextWeight
from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData
from delorean.training.served_model import numbers_of
from schemas.errors import ComparisonError


@dataclass(frozen=True)
class Reading:
    """What is read beside features.

    context, items: the variables
    columns: further columns of contexts; lists: further columns with a value for each item
    label, weight, item_weight, max_items, seed: as `read_feature_set` takes them
    """

    context: tuple[str, ...]
    items: tuple[str, ...]
    columns: tuple[str, ...]
    lists: tuple[str, ...]
    label: str
    weight: str | ContextWeight | None
    item_weight: str | None
    max_items: int | None
    seed: int

    def of_variables(self, columns: Sequence[str]) -> Reading:
        """Return what is read of the other side: what pairs it, and these columns."""
        return replace(self, columns=tuple(columns), lists=(), weight=None, item_weight=None)

    def read(self, data: FeatureData, features: Sequence[str], eligible: Eligible | None = None) -> RankingData:
        """Read a feature set, or the contexts of it that are eligible.

        Raises ComparisonError for a missing column, and what `read_feature_set` raises.
        """
        for name in (*self.context, *self.items, *self.columns, *self.lists, self.label):
            if name not in data.schema.names:
                raise ComparisonError.unknown(f"column of {data.name}", name, data.schema.names)
        return read_feature_set(
            data.source,
            list(dict.fromkeys(features)),
            [*self.items, *self.lists],
            self.context,
            version=data.version,
            weight=self.weight,
            max_items=self.max_items,
            seed=self.seed,
            label=self.label,
            item_weight=self.item_weight,
            kept=[name for name in self.columns if name not in self.context],
            eligible=eligible,
        )


@dataclass(frozen=True)
class ScoredContexts:
    """Contexts with the scores of both packages.

    part: its features are those of both, production's after the candidate's
    candidate, production: (items,) scores
    notes: what of the data is not compared
    """

    part: RankingData
    candidate: NDArray[np.float32]
    production: NDArray[np.float32]
    notes: tuple[str, ...] = ()


def score_together(data: RankingData, candidate: ModelPackage, production: ModelPackage) -> ScoredContexts:
    """Score contexts that have the features of both packages."""
    return ScoredContexts(data, _score(data, candidate), _score(data, production))


def score_apart(
    ours: RankingData,
    theirs: RankingData,
    candidate: ModelPackage,
    production: ModelPackage,
    reading: Reading,
) -> ScoredContexts:
    """Score each side's contexts, and pair them by context, time and item.

    A context is compared if both sides have the same items for it. Raises ComparisonError where no context is, and for
    different labels.
    """
    notes: tuple[str, ...] = ()
    if _table(ours, reading).equals(_table(theirs, reading)):
        paired, rows = theirs, np.arange(len(ours))
    else:
        paired, rows, notes = _aligned(ours, theirs, reading)
    ours = ours.take(rows)
    differing = int((ours.labels != paired.labels).sum())
    if differing:
        raise ComparisonError.because(
            f"{differing:,} of {len(ours.labels):,} items have another '{reading.label}' in the other feature set",
            "compare on features that were generated for the same label data",
        )
    together = np.hstack([ours.features, paired.features])
    part = replace(ours, features=together, names=(*ours.names, *(f"production's {name}" for name in paired.names)))
    return ScoredContexts(part, _score(ours, candidate), _score(paired, production), notes)


def _score(data: RankingData, package: ModelPackage) -> NDArray[np.float32]:
    for name in package.columns:
        if name not in data.names:
            raise ComparisonError.unknown(f"column of the features, an input of {package.path}", name, data.names)
    columns = [data.names.index(name) for name in package.columns]
    tasks = None if package.tasks is None else numbers_of(data, package.tasks)
    return package.score(np.ascontiguousarray(data.features[:, columns]), tasks)


def _aligned(
    ours: RankingData, theirs: RankingData, reading: Reading
) -> tuple[RankingData, NDArray[np.int64], tuple[str, ...]]:
    """Return their contexts in our order of contexts and items, which of ours these are, and what is left out."""
    aligned = align(_table(ours, reading), _table(theirs, reading), reading.context, reading.items)
    matches = np.bincount(aligned.row_of, minlength=len(aligned.rows[0]))
    lengths = [np.diff(data.offsets)[rows] for data, rows in zip((ours, theirs), aligned.rows, strict=True)]
    whole = (matches == lengths[0]) & (matches == lengths[1])
    if not whole.any():
        raise ComparisonError.because(
            f"the feature sets have no context in common: {len(ours):,} and {len(theirs):,}, "
            f"{len(aligned.rows[0]):,} of the same variables and time, none of these with the same items",
            "compare on features that were generated for the same label data",
        )
    kept = whole[aligned.row_of]
    order = np.argsort(aligned.items[0][kept], kind="stable")
    positions = aligned.items[1][kept][order]
    paired = theirs.take(aligned.rows[1][whole])
    rearranged = replace(
        paired, labels=theirs.labels[positions], features=theirs.features[positions], items=theirs.items.take(positions)
    )
    out = (len(ours) - int(whole.sum()), len(theirs) - int(whole.sum()))
    note = f"{out[0]:,} contexts of the candidate's features and {out[1]:,} of production's are not in both"
    return rearranged, aligned.rows[0][whole], (note,) if any(out) else ()


def _table(data: RankingData, reading: Reading) -> pa.Table:
    """Return variables, time and lists of items, as `align` takes them."""
    offsets = pa.array(data.offsets.astype(np.int32))
    lists = {name: pa.ListArray.from_arrays(offsets, data.items[name].combine_chunks()) for name in reading.items}
    return pa.table({**{name: data.contexts[name] for name in (*reading.context, "time")}, **lists})
