"""Computes the features of a package for label data, from the state as of each row's time, without writing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from delorean.generation.bucket_task import bucket_features, match_elements, unserved_elements
from delorean.generation.generation_plan import GenerationPlan, plan_generation
from delorean.labels import TIME_COLUMN, Labels
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.stable_hash import unit_hash
from delorean.state.sources import PinnedSources
from delorean.step_timer import StepTimer
from schemas.errors import ComparisonError
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet


def computed_features(
    package: ModelPackage,
    labels: Labels,
    index: SnapshotIndex,
    storage: Storage,
    chosen: Callable[[pa.Table], NDArray[np.bool_]],
    max_items: int | None = None,
) -> pa.Table:
    """Compute a package's features for some rows of label data, by the rules that the package was trained with.

    chosen: returns which rows of a bucket are needed
    max_items: if these have more, they are sampled by a hash of their variables and time, the same for every package

    Returns the columns of a feature set, for rows in the order of the label data. Memory: the features of all chosen
    rows, and the state of one bucket. Raises ComparisonError if no row is chosen, and what planning a generation and
    running an encoder raise.
    """

    def planned(pinned: PinnedSources | None = None, **further: Any) -> GenerationPlan:
        return plan_generation(
            labels,
            package.feature_model,
            index,
            storage.uri,
            package.rules,
            pinned=pinned,
            tasks=package.tasks,
            **further,
        )

    plan, tables = planned(paged=True), []
    key = [*(variable.name for variable in labels.context), TIME_COLUMN]
    share = _share(labels, storage, chosen, max_items)
    for file in labels.files:
        rows = read_parquet(storage, file).combine_chunks()
        mask = chosen(rows)
        if share < 1:
            mask &= unit_hash([rows[name] for name in key], seed=0) < share
        if not mask.any():
            continue
        rows = rows.filter(pa.array(mask)).combine_chunks()
        elements = match_elements(plan, rows, file.bucket, storage)
        while more := unserved_elements(elements):
            plan = planned(plan.pinned, more=more)
            elements = match_elements(plan, rows, file.bucket, storage)
        tables.append(bucket_features(plan, rows, elements, StepTimer()).table)
    if not tables:
        raise ComparisonError.because(
            f"no context of label data {labels.labels_id} is left to compare on",
            "give label data from after both were trained, or include all contexts: --all-contexts",
        )
    return pa.concat_tables(tables).combine_chunks()


def _share(
    labels: Labels, storage: Storage, chosen: Callable[[pa.Table], NDArray[np.bool_]], max_items: int | None
) -> float:
    """Return the share of the chosen rows that has about the greatest number of items."""
    if max_items is None or labels.item_count <= max_items:
        return 1.0
    items = 0
    for file in labels.files:
        rows = read_parquet(storage, file).combine_chunks()
        lengths = pc.list_value_length(rows[labels.items[0].name]).to_numpy()
        items += int(lengths[chosen(rows)].sum())
    return min(1.0, max_items / max(items, 1))
