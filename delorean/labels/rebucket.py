"""The same label data in another number of buckets, so that an experiment replays under another partitioning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from delorean.labels import Labels, find_labels, id_is_taken, new_folder, new_labels_id, save_labels
from delorean.labels.grouping import LabelGrouper
from schemas.hashing import bucket_of, check_bucket_count
from snapshotter.records import DataFile
from snapshotter.storage import Storage, require_plain_name
from snapshotter.storage.parquet import read_parquet, write_parquet


def rebucket(labels: Labels, buckets: int, storage: Storage, labels_id: str | None = None) -> Labels:
    """Write label data once more, in another number of buckets: the same rows, sorted within each as before.

    buckets: a power of two
    storage: where the labels lie and where their copy goes
    labels_id: of the copy; None: a new one

    Memory: one bucket of the smaller of both counts. Raises DataKeyError for a count that is no power of two,
    ConfigError if the id is taken, MissingFileError or CorruptFileError for label data that was tampered with.
    """
    check_bucket_count(buckets)
    named = labels_id is not None
    if labels_id is not None:
        require_plain_name("label data", labels_id)
        if find_labels(labels_id, storage) is not None:
            raise id_is_taken(labels_id)
    labels_id = labels_id or new_labels_id()
    files = sorted(_write(labels, buckets, storage, new_folder(labels_id)), key=lambda file: file.bucket)
    return save_labels(replace(labels, labels_id=labels_id, buckets=buckets, files=tuple(files), named=named), storage)


def _write(labels: Labels, buckets: int, storage: Storage, folder: str) -> Iterator[DataFile]:
    """Bucket i of n holds rows of those buckets of m that are equal to i modulo the smaller: so go by these."""
    grouper = LabelGrouper(labels.context, labels.items, grouped=True)
    together = min(labels.buckets, buckets)
    for group in range(together):
        parts = [read_parquet(storage, file) for file in labels.files if file.bucket % together == group]
        if not parts:
            continue
        rows = pa.concat_tables(parts)
        of = bucket_of(rows[labels.bucket_variable], buckets)
        for bucket in np.unique(of).tolist():
            part = grouper.label_rows(rows.filter(pa.array(of == bucket)))
            yield write_parquet(storage, f"{folder}/{bucket:05d}-0.parquet", part, labels.schema, bucket)
