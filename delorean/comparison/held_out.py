"""The contexts that a package was not trained on: the test part of its split, and whatever came later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.experiment.model_spec import ModelSpec
from delorean.feature_sets.table import open_table
from delorean.labels import LABEL_COLUMN
from delorean.packaging.package import ModelPackage
from delorean.ranking_data.context_sample import choose_contexts
from delorean.ranking_data.split import Split
from schemas.errors import DeloreanError, StorageError
from snapshotter.storage.delta_version import DeltaVersion

_TEST = 2


def held_out_split(package: ModelPackage) -> tuple[Split | None, str | None]:
    """Return a package's split at the times at which it divided the training data, or why it is not known.

    A split by shares of time is reproduced from the feature set that the package's lineage names, with the sample that
    was drawn from it.
    """
    try:
        split = msgspec.convert(dict(package.report.split), Split)
        if not split.by_time or split.test_from is not None:
            return split, None
        return split.at_times_of(_training_contexts(package)), None
    except (DeloreanError, StorageError, msgspec.ValidationError, KeyError) as error:
        return None, str(error)


def is_held_out(contexts: pa.Table, split: Split) -> NDArray[np.bool_]:
    """Return for each context whether it is in the test part of a split at fixed times, or of one by group."""
    held_out: NDArray[np.bool_] = split.assign(contexts) == _TEST
    return held_out


def _training_contexts(package: ModelPackage) -> pa.Table:
    """Read the contexts that the package's training read."""
    origin: Any = package.lineage["feature_set"]
    stored = DeltaVersion.of(open_table(origin["uri"], origin["version"]), origin["uri"])
    model = model_spec(package)
    names = [model.label or LABEL_COLUMN, LABEL_COLUMN, *package.features]
    lists = [name for name in names if name in stored.schema.names]

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return stored.batches(columns)

    key = [*(variable.name for variable in package.context), "time"]
    most = model.max_items if model.workers == 1 else None  # several workers read all of it
    return choose_contexts(batches, key, key, most, model.seed, lists[0]).contexts


def model_spec(package: ModelPackage) -> ModelSpec:
    """Return how a package's model was trained: by its spec, or by default where its lineage has none."""
    return msgspec.convert((package.lineage.get("spec") or {}).get("model", {}), ModelSpec)
