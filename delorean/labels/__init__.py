"""Label data: contexts, a time for each, their items, labels of each item and when their outcome was observed.

There may be one label, several or none, a weight of each item, and columns that are carried along unused.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import msgspec
import pyarrow as pa

from delorean.labels.merge_report import StratumCounts
from delorean.labels.roles import (
    LABEL_COLUMN,
    OUTCOME_COLUMN,
    TIME_COLUMN,
    WEIGHT_COLUMN,
    KeptColumn,
    LabelColumns,
    LabelShape,
)
from delorean.tasks.task_set import TaskSet
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, LabelError, MissingFileError
from schemas.plain_text import plain_text
from snapshotter.records import DataFile, JsonRecord, from_micros
from snapshotter.storage import Storage, require_plain_name

__all__ = [
    "FOLDER",
    "LABEL_COLUMN",
    "OUTCOME_COLUMN",
    "TIME_COLUMN",
    "WEIGHT_COLUMN",
    "KeptColumn",
    "LabelColumns",
    "LabelShape",
    "Labels",
    "check_new_id",
    "find_labels",
    "label_data_names",
    "labels_id_of_manifest",
    "load_labels",
    "manifest_path",
    "new_folder",
    "new_labels_id",
    "save_labels",
]

FOLDER = "labels"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, repr=False)
class Labels(JsonRecord):
    """Label data at rest: grouped by context and time, in buckets, each sorted by context and time.

    contexts: label rows, one for each (context, time)
    item_count: items of all of them
    earliest, latest: the first and last time coordinate
    outcome_columns: the names of labels and outcome, at rest and in the source, and those of the weight and of columns
        that are carried along: never data for a feature
    source: the query and the tables that the rows come from, empty if not recorded
    named: whether a person chose the id; a vacuum never deletes such label data. Older manifests do not record this, so
        theirs count as named
    label_names: the labels' columns; those of older manifests have one, `label`
    weighted: whether each item has a weight
    kept: columns that are carried along
    tasks: whose label data was merged; None: label data of one use. Which features a task lacks depends on encoders
    merged: what the merge took of each task and stratum
    """

    labels_id: str
    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    bucket_variable: str
    buckets: int
    files: tuple[DataFile, ...]
    item_count: int
    earliest: datetime
    latest: datetime
    outcome_columns: tuple[str, ...] = (LABEL_COLUMN, OUTCOME_COLUMN)
    source: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True
    label_names: tuple[str, ...] = (LABEL_COLUMN,)
    weighted: bool = False
    kept: tuple[KeptColumn, ...] = ()
    tasks: TaskSet | None = None
    merged: tuple[StratumCounts, ...] = ()

    @property
    def contexts(self) -> int:
        """Number of label rows."""
        return sum(file.rows for file in self.files)

    @property
    def shape(self) -> LabelShape:
        """The columns of the files."""
        return LabelShape(self.context, self.items, self.label_names, self.weighted, self.kept)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the files."""
        return self.shape.schema

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"label data {self.labels_id}: {self.contexts:,} rows, {self.item_count:,} items")

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain fields; label data of one use has those of earlier releases."""
        fields = super().to_json()
        if self.tasks is None:
            return {name: value for name, value in fields.items() if name not in ("tasks", "merged")}
        return {**fields, "tasks": msgspec.to_builtins(self.tasks)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls(
            **{
                **fields,
                "context": tuple(DataKey.from_json(key) for key in fields["context"]),
                "items": tuple(DataKey.from_json(key) for key in fields["items"]),
                "files": tuple(DataFile.from_json(file) for file in fields["files"]),
                "earliest": from_micros(fields["earliest"]),
                "latest": from_micros(fields["latest"]),
                "outcome_columns": tuple(fields.get("outcome_columns", (LABEL_COLUMN, OUTCOME_COLUMN))),
                "label_names": tuple(fields.get("label_names", (LABEL_COLUMN,))),
                "kept": tuple(KeptColumn.from_json(column) for column in fields.get("kept", ())),
                "tasks": msgspec.convert(fields.get("tasks"), TaskSet | None),
                "merged": tuple(StratumCounts.from_json(counts) for counts in fields.get("merged", ())),
            }
        )


def save_labels(labels: Labels, storage: Storage) -> Labels:
    """Publish label data under its id in one conditional write, and return what is published under that id.

    Where another writer was faster, that is its label data, if it has the same rows or the same source; under an id
    that no person chose it always is, since such an id is derived from the source. Raises ConfigError otherwise.
    """
    if storage.create(manifest_path(labels.labels_id), json.dumps(labels.to_json(), indent=1).encode()):
        return labels
    published = load_labels(labels.labels_id, storage)
    if labels.named and not _same(published, labels):
        raise _id_is_taken(labels.labels_id)
    return published


def check_new_id(labels_id: str, storage: Storage) -> None:
    """Raise ConfigError for an id that cannot name a folder, or under which label data is published."""
    require_plain_name("label data", labels_id)
    if find_labels(labels_id, storage) is not None:
        raise _id_is_taken(labels_id)


def _id_is_taken(labels_id: str) -> ConfigError:
    return ConfigError.because(f"label data '{labels_id}' exists already", "load it, or choose another id")


def _same(one: Labels, other: Labels) -> bool:
    """Compare label data by its source, where that is recorded, or else by its rows."""
    if one.shape != other.shape:
        return False
    if one.source or other.source:
        return one.source == other.source
    files = ([(file.bucket, file.rows, file.checksum) for file in each.files] for each in (one, other))
    return len({tuple(each) for each in files}) == 1


def find_labels(labels_id: str, storage: Storage) -> Labels | None:
    """Load materialised label data by its id, or return None.

    Raises LabelError for a manifest that cannot be read.
    """
    path = manifest_path(labels_id)
    try:
        with storage.open_input(path) as manifest:
            return Labels.from_json(json.loads(manifest.read()))
    except MissingFileError:
        return None
    except (AttributeError, DataKeyError, KeyError, TypeError, ValueError) as error:
        raise LabelError.because(
            f"'{path}' is not a manifest of label data: {error!r}", "restore it from a copy, or use another id"
        ) from error


def made_once(labels_id: str, storage: Storage, make: Callable[[], Labels]) -> Labels:
    """Return the label data of an id that its content determines: what is at rest, else what `make` publishes."""
    existing = find_labels(labels_id, storage)
    if existing is not None:
        return existing
    try:
        return make()
    except ConfigError:
        existing = find_labels(labels_id, storage)
        if existing is None:
            raise
        return existing  # another process was faster


def load_labels(labels_id: str, storage: Storage) -> Labels:
    """Load materialised label data. Raises LabelError for an id that does not exist or cannot be read."""
    labels = find_labels(labels_id, storage)
    if labels is None:
        raise LabelError.because(f"there is no label data '{labels_id}' in {storage.uri}", "materialise it")
    return labels


def label_data_names(storage: Storage) -> list[str]:
    """Return the ids of the label data in a storage, sorted."""
    return sorted(
        labels_id for file in storage.list(FOLDER) if (labels_id := labels_id_of_manifest(file.path)) is not None
    )


def manifest_path(labels_id: str) -> str:
    """Return the path of label data's manifest, relative to the storage's root."""
    return f"{FOLDER}/{labels_id}/{_MANIFEST}"


def labels_id_of_manifest(path: str) -> str | None:
    """Return the id of the label data with this manifest path; None for other files. Old ids may contain slashes.

    >>> labels_id_of_manifest("labels/team/homepage/manifest.json")
    'team/homepage'
    """
    root, _, inside = path.partition("/")
    labels_id, slash, name = inside.rpartition("/")
    return labels_id if root == FOLDER and slash and name == _MANIFEST else None


def new_folder(labels_id: str) -> str:
    """Return a folder for the files of label data, a new one for each attempt, so that attempts never collide."""
    return f"{FOLDER}/{labels_id}/{uuid.uuid4().hex[:8]}"


def new_labels_id() -> str:
    """Return an id for label data without a name."""
    return uuid.uuid4().hex[:12]
