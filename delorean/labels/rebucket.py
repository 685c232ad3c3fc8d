"""Rewrites label data in another number of buckets, to replay an experiment under another partitioning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from delorean.labels import Labels, check_new_id, new_folder, new_labels_id, save_labels
from delorean.labels.bucket_rule import BucketRule
from delorean.labels.grouping import LabelGrouper
from schemas.hashing import check_bucket_count
from snapshotter.records import DataFile
from snapshotter.storage import Storage
from snapshotter.storage.parquet import read_parquet, write_parquet


def rebucket(labels: Labels, buckets: int, storage: Storage, labels_id: str | None = None) -> Labels:
    """Return a copy of label data in another number of buckets: the same rows, sorted within each as before.

    buckets: a power of two
    storage: of the labels and of their copy
    labels_id: of the copy; None: a new id

    Memory: one bucket of the smaller of both counts. Raises DataKeyError for a count that is no power of two,
    ConfigError if the id is taken, MissingFileError or CorruptFileError for changed or missing files of the labels.
    """
    check_bucket_count(buckets)
    named = labels_id is not None
    if labels_id is not None:
        check_new_id(labels_id, storage)
    labels_id = labels_id or new_labels_id()
    files = sorted(_write(labels, buckets, storage, new_folder(labels_id)), key=lambda file: file.bucket)
    return save_labels(replace(labels, labels_id=labels_id, buckets=buckets, files=tuple(files), named=named), storage)


def _write(labels: Labels, buckets: int, storage: Storage, folder: str) -> Iterator[DataFile]:
    """Write the files, by groups of buckets that are equal modulo the smaller count: only these exchange rows."""
    rule = BucketRule.of_tasks(labels.bucket_variable, labels.context, labels.tasks)
    grouper = LabelGrouper(labels.shape, grouped=True)
    groups = min(labels.buckets, buckets)
    for group in range(groups):
        parts = [read_parquet(storage, file) for file in labels.files if file.bucket % groups == group]
        if not parts:
            continue
        rows = pa.concat_tables(parts)
        bucket_numbers = rule.buckets(rows, buckets)
        for bucket in np.unique(bucket_numbers).tolist():
            part = grouper.cast_and_group(rows.filter(pa.array(bucket_numbers == bucket)))
            yield write_parquet(storage, f"{folder}/{bucket:05d}-0.parquet", part, labels.schema, bucket)
