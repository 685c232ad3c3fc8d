"""Label data: contexts, a time for each, their items, a label for each item and when its outcome was observed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self, get_args

import pyarrow as pa

from delorean.labels.column_types import TimeUnit
from schemas.data_keys import DataKey
from schemas.errors import ConfigError, DataKeyError, LabelError, MissingFileError, ParadoxError
from schemas.plain_text import plain_text
from schemas.tables import TIME
from snapshotter.records import DataFile, JsonRecord, from_micros
from snapshotter.storage import Storage, require_plain_name

FOLDER = "labels"
TIME_COLUMN = "time"
LABEL_COLUMN = "label"
OUTCOME_COLUMN = "outcome_at"
_RESERVED = (TIME_COLUMN, LABEL_COLUMN, OUTCOME_COLUMN)  # the names at rest, whatever the source's names
_MANIFEST = "manifest.json"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class LabelColumns:
    """The roles of label data's columns.

    items: the variables that identify an item; in grouped data they and the label are lists
    context: the variables that identify a context; None: all columns without another role
    outcome_at: when the outcome was observed; it must be later than the time
    time_unit: of integers in these two columns: "s", "ms", "us", "ns" or "day" since 1970, in UTC; with "day" dates
        are accepted too, as their beginning in UTC. None: integers and dates are refused
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
        for what, names in (("items", self.items), ("context", self.context)):
            if isinstance(names, str):
                raise LabelError.mistaken(what, names, "names of columns", f'write {what}=("{names}",)')

    def check(self) -> None:
        """Raise LabelError or ParadoxError for roles that are wrong for any label data."""
        if not self.items:
            raise LabelError.because(
                "label data names no items", 'name the columns that identify one: items=("video_id",)'
            )
        if self.context == ():
            raise _no_context()
        used = [*(self.context or ()), *self.items, self.time, self.label, self.outcome_at]
        repeated = sorted({name for name in used if used.count(name) > 1})
        leaks = [name for name in repeated if name in (self.label, self.outcome_at)]
        if leaks:
            raise ParadoxError.because(
                f"label column '{leaks[0]}' is also a context or item variable",
                "no feature may know its label: leave it out of items and context",
            )
        if repeated:
            raise LabelError.because(
                f"label data uses {', '.join(repeated)} in two roles", "use a column for each role"
            )

    def resolve(self, names: Sequence[str]) -> LabelColumns:
        """Return the roles with the context named, if every column exists exactly once. Raises LabelError.

        Index columns that pandas adds to a file, `__index_level_0__`, become context variables only if they are named.
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
                    f"column '{name}' of the label data would clash with the rows' own {name.casefold()}",
                    f"leave it out of the query, SELECT * EXCEPT ({name}), or give it another name",
                )
        return replace(self, context=context)


def _no_context() -> LabelError:
    return LabelError.because("label data has no context variables", "add at least one column beside the items")


def _refuse_alike(names: Sequence[str], used: Sequence[str]) -> None:
    """Raise LabelError for columns whose names others share, by spelling or apart from upper and lower case."""
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
class Labels(JsonRecord):
    """Label data at rest: grouped by context and time, in buckets, each sorted by context and time.

    contexts: label rows, one for each (context, time)
    item_count: items of all of them
    earliest, latest: the first and last time coordinate
    outcome_columns: the names of label and outcome at rest and in the source: never data for a feature
    source: the query and the tables that the rows come from, empty if not recorded
    named: whether a person chose the id; a vacuum never deletes such label data. Older manifests do not record this, so
        theirs count as named
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
        """Schema of the files."""
        return labels_schema(self.context, self.items)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"label data {self.labels_id}: {self.contexts:,} rows, {self.item_count:,} items")

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
            }
        )


def labels_schema(context: tuple[DataKey, ...], items: tuple[DataKey, ...]) -> pa.Schema:
    """Return the schema at rest: one row for each context and time, items and labels as aligned lists.

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
    if (one.context, one.items) != (other.context, other.items):
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
