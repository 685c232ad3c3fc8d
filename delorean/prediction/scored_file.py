"""The task of a prediction: scores the rows of one file of a feature set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from delorean.prediction.packaged_model import PROBABILITY_COLUMN, SCORE_COLUMN, PackagedModel
from delorean.ranking_data.context_sample import list_lengths
from delorean.ranking_data.list_columns import ChosenRows, FeatureColumn
from delorean.tasks.impossible_features import task_numbers
from snapshotter.records import DataFile
from snapshotter.storage import Storage, open_storage
from snapshotter.storage.parquet import read_unrecorded, write_parquet

_ROWS = 1_024  # at a time: a context may have thousands of items


@dataclass(frozen=True)
class ScoredFile:
    """A file of scores, and a summary of them; lowest and highest are None where the file has no items."""

    file: DataFile
    items: int
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class Scoring:
    """What the tasks of a prediction have in common.

    source_uri: of the feature set; storage_uri, folder: where the files of scores are written
    items: the columns of the item variables
    schema: of the files of scores: columns of the feature set, and the score
    """

    source_uri: str
    storage_uri: str
    folder: str
    model: PackagedModel
    items: tuple[str, ...]
    schema: pa.Schema

    def score_file(self, path: str, number: int, attempt: str) -> ScoredFile:
        """Score the rows of a file. path: relative to the feature set; number, attempt: make the new file's name.

        Raises TrainingError for columns of another type, PackageError where the model accepts no missing values,
        DataKeyError for a context of a task that the model does not serve.
        """
        scores: list[NDArray[np.float32]] = []
        target = f"{self.folder}/{number:05}-{attempt}.parquet"
        batches = self._scored(open_storage(self.source_uri), path, scores)
        written = write_parquet(open_storage(self.storage_uri), target, batches, self.schema, number)
        extremes = np.array([[part.min(), part.max()] for part in scores if len(part)])
        lowest, highest = (float(extremes[:, 0].min()), float(extremes[:, 1].max())) if len(extremes) else (None, None)
        return ScoredFile(written, sum(map(len, scores)), lowest, highest)

    def _scored(self, source: Storage, path: str, scores: list[NDArray[np.float32]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with their scores, which are added to `scores`."""
        carried = [name for name in self.schema.names if name not in (SCORE_COLUMN, PROBABILITY_COLUMN)]
        names, row = list(dict.fromkeys([*carried, *self.model.features])), 0
        for batch in read_unrecorded(source, path, names, rows=_ROWS):
            lengths = list_lengths(batch, self.items[0])
            rows = ChosenRows(batch, np.arange(row, row + len(batch)), lengths)
            for name in self.items:
                rows.flat(name)  # rejects lists of other lengths
            features = [FeatureColumn.of(name, self.model.vectors) for name in self.model.features]
            matrix = np.hstack([rows.matrix(feature) for feature in features])
            tasks = self.model.tasks
            numbers = None if tasks is None else np.repeat(task_numbers(batch, tasks), lengths)
            scores.append(self.model.score(matrix, numbers))
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            columns = {SCORE_COLUMN: scores[-1], PROBABILITY_COLUMN: self.model.probabilities(scores[-1], numbers)}
            lists = {
                name: pa.ListArray.from_arrays(offsets, pa.array(values, pa.float32(), from_pandas=False))
                for name, values in columns.items()
                if values is not None
            }
            table = pa.table({**{name: batch[name] for name in carried}, **lists})
            yield from table.select(self.schema.names).cast(self.schema).to_batches()
            row += len(batch)
