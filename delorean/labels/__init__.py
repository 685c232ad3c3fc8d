"""Label data: contexts, a time for each, their items, a label for each item and when its outcome was observed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self, get_args

import pyarrow as pa

from delorean.labels.column_types import TimeUnit
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, LabelError, MissingFileError, ParadoxError
from schemas.plain_text import plain_text
from schemas.tables import TIME
from snapshotter.records import DataFile, from_micros, to_micros
from snapshotter.storage import Storage

FOLDER = "labels"
TIME_COLUMN = "time"
LABEL_COLUMN = "label"
OUTCOME_COLUMN = "outcome_at"
_RESERVED = (TIME_COLUMN, LABEL_COLUMN, OUTCOME_COLUMN)  # what label data at rest calls these, whatever they were
_MANIFEST = "manifest.json"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of somebody's label data mean what.

    items: the variables that make an item; in grouped data they and the label are lists
    context: the variables that make a context; None: all columns not named otherwise
    outcome_at: when the outcome was observed; it must be later than the time
    time_unit: what integers mean in these two columns: "s", "ms", "us", "ns" or "day" since 1970, in UTC; by "day" a
        date counts too, as the moment when it begins in UTC. None: integers and dates are refused
    """

    items: tuple[str, ...]
    context: tuple[str, ...] | None = None
    time: str = TIME_COLUMN
    label: str = LABEL_COLUMN
    outcome_at: str = OUTCOME_COLUMN
    time_unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        """Reject a bare string, which would be read as one name per letter, and an unknown unit."""
        if self.time_unit is not None and self.time_unit not in get_args(TimeUnit):
            raise LabelError.unknown("time_unit", str(self.time_unit), get_args(TimeUnit))
        for what, given in (("items", self.items), ("context", self.context)):
            if isinstance(given, str):
                raise LabelError.mistaken(what, given, "names of columns", f'write {what}=("{given}",)')

    def check(self) -> None:
        """Refuse what is wrong whatever the label data holds. Raises LabelError, ParadoxError."""
        if not self.items:
            raise LabelError.because("label data names no items", 'say which columns make one: items=("video_id",)')
        if self.context == ():
            raise _no_context()
        used = [*(self.context or ()), *self.items, self.time, self.label, self.outcome_at]
        twice = sorted({name for name in used if used.count(name) > 1})
        leaks = [name for name in twice if name in (self.label, self.outcome_at)]
        if leaks:
            raise ParadoxError.because(
                f"label column '{leaks[0]}' is offered as a context or item variable too",
                "no feature may know its label: leave it out of items and context",
            )
        if twice:
            raise LabelError.because(f"label data uses {', '.join(twice)} for two things", "give each a column")

    def resolve(self, names: Sequence[str]) -> LabelColumns:
        """Name the context, checking that every column is there, once. Raises LabelError.

        Index columns that pandas adds to a file, `__index_level_0__`, are no context variables unless they are named.
        """
        self.check()
        plain = (self.time, self.label, self.outcome_at)
        context = self.context
        if context is None:
            others = (name for name in names if name not in (*self.items, *plain))
            context = tuple(name for name in others if not _PANDAS_INDEX.fullmatch(name))
        if not context:
            raise _no_context()
        for name in (*context, *self.items, *plain):
            if name not in names:
                raise LabelError.unknown("column of the label data", name, names)
        _refuse_alike(list(names), (*context, *self.items, *plain))
        for name in (*context, *self.items):
            if name.casefold() in _RESERVED:
                raise LabelError.because(
                    f"column '{name}' of the label data would be a variable beside the rows' own {name.casefold()}",
                    f"leave it out of the query, SELECT * EXCEPT ({name}), or give it another name",
                )
        return replace(self, context=context)


def _no_context() -> LabelError:
    return LabelError.because("label data has no context variables", "add at least one column beside the items")


def _refuse_alike(names: Sequence[str], used: Sequence[str]) -> None:
    """Refuse columns that are used if others have their names, or names that Spark and Delta take for the same."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(name.casefold(), []).append(name)
    for name in used:
        alike = spelled[name.casefold()]
        if len(alike) > 1:
            raise LabelError.because(
                f"label data has several columns named {' and '.join(repr(each) for each in alike)}, "
                "which Spark and Delta tables take for one",
                "leave all but one out of the query, or give them other names: SELECT … AS …",
            )


@dataclass(frozen=True, repr=False)
class Labels:
    """Label data at rest: grouped by context and time, in buckets, each sorted by context and time.

    contexts: label rows, one for each (context, time)
    item_count: items of all of them
    earliest, latest: the first and last time coordinate
    outcome_columns: what label and outcome were called where they came from, and are here: never data for a feature
    source: the query and the tables it was made from, empty where nobody said
    named: whether a person chose the id; a vacuum never takes such label data. Manifests that were written before this
        was recorded do not say, so theirs counts as named
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

    @property
    def contexts(self) -> int:
        """Number of label rows."""
        return sum(file.rows for file in self.files)

    @property
    def schema(self) -> pa.Schema:
        """Of the files."""
        return labels_schema(self.context, self.items)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"label data {self.labels_id}: {self.contexts:,} rows, {self.item_count:,} items")

    def to_json(self) -> dict[str, Any]:
        """Write the record as plain fields."""
        return {
            **vars(self),
            "context": [key.to_json() for key in self.context],
            "items": [key.to_json() for key in self.items],
            "files": [file.to_json() for file in self.files],
            "earliest": to_micros(self.earliest),
            "latest": to_micros(self.latest),
            "outcome_columns": list(self.outcome_columns),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            **{
                **fields,
                "context": tuple(DataKey.from_json(key) for key in fields["context"]),
                "items": tuple(DataKey.from_json(key) for key in fields["items"]),
                "files": tuple(DataFile.from_json(file) for file in fields["files"]),
                "earliest": from_micros(fields["earliest"]),
                "latest": from_micros(fields["latest"]),
                "outcome_columns": tuple(fields.get("outcome_columns", (LABEL_COLUMN, OUTCOME_COLUMN))),
            }
        )


def labels_schema(context: tuple[DataKey, ...], items: tuple[DataKey, ...]) -> pa.Schema:
    """Label data at rest: one row for each context and time, items and labels as lists of one length.

    `outcome_at` is when the last of the row's outcomes was observed: from then on its labels are known.
    """
    return pa.schema(
        [
            *((key.name, key.type) for key in context),
            (TIME_COLUMN, TIME),
            (OUTCOME_COLUMN, TIME),
            *((key.name, pa.list_(key.type)) for key in items),
            (LABEL_COLUMN, pa.list_(pa.float32())),
        ]
    )


def save_labels(labels: Labels, storage: Storage) -> Labels:
    """Publish label data under its id in one conditional write, and give what is published under that id.

    Where another writer was faster, that is its label data, if it holds the same rows or was made from the same source;
    under an id that no person chose it always is, since the id says what it is made from. Raises ConfigError otherwise.
    """
    if storage.create(manifest_path(labels.labels_id), json.dumps(labels.to_json(), indent=1).encode()):
        return labels
    published = load_labels(labels.labels_id, storage)
    if labels.named and not _same(published, labels):
        raise id_is_taken(labels.labels_id)
    return published


def id_is_taken(labels_id: str) -> ConfigError:
    """Build the error for an id under which other label data is published."""
    return ConfigError.because(f"label data '{labels_id}' exists already", "load it, or choose another id")


def _same(one: Labels, other: Labels) -> bool:
    """Compare label data by its source, where that is recorded, or else by its rows."""
    if (one.context, one.items) != (other.context, other.items):
        return False
    if one.source or other.source:
        return one.source == other.source
    files = ([(file.bucket, file.rows, file.checksum) for file in each.files] for each in (one, other))
    return len({tuple(each) for each in files}) == 1


def find_labels(labels_id: str, storage: Storage) -> Labels | None:
    """Load label data that was materialised earlier; None where there is none of that id.

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
            f"'{path}' is no manifest of label data: {error!r}", "restore it from a copy, or take another id"
        ) from error


def load_labels(labels_id: str, storage: Storage) -> Labels:
    """Load label data that was materialised earlier. Raises LabelError for an id that is not there or not readable."""
    labels = find_labels(labels_id, storage)
    if labels is None:
        raise LabelError.because(f"there is no label data '{labels_id}' in {storage.uri}", "materialise it")
    return labels


def names_of_labels(storage: Storage) -> list[str]:
    """Name the label data in a storage, sorted."""
    return sorted(
        labels_id for file in storage.list(FOLDER) if (labels_id := labels_id_of_manifest(file.path)) is not None
    )


def manifest_path(labels_id: str) -> str:
    """Path of the manifest of label data, relative to the storage's root."""
    return f"{FOLDER}/{labels_id}/{_MANIFEST}"


def labels_id_of_manifest(path: str) -> str | None:
    """The id of the label data whose manifest lies at a path; None for other files. Earlier ids may have slashes.

    >>> labels_id_of_manifest("labels/team/homepage/manifest.json")
    'team/homepage'
    """
    root, _, inside = path.partition("/")
    labels_id, slash, name = inside.rpartition("/")
    return labels_id if root == FOLDER and slash and name == _MANIFEST else None


def new_folder(labels_id: str) -> str:
    """Name a folder for the files of label data, another for each try: one that died is never in the next one's way."""
    return f"{FOLDER}/{labels_id}/{uuid.uuid4().hex[:8]}"


def new_labels_id() -> str:
    """Make an id for label data that nobody gave a name."""
    return uuid.uuid4().hex[:12]
