"""Label data: contexts, a time for each, their items, labels of each item and when their outcome was observed.

There may be one label, several or none, a weight of each item, and columns that are carried along unused.
"""

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
from schemas.type_records import type_from_json, type_to_json
from snapshotter.records import DataFile, JsonRecord, from_micros
from snapshotter.storage import Storage, require_plain_name

FOLDER = "labels"
TIME_COLUMN = "time"
LABEL_COLUMN = "label"
OUTCOME_COLUMN = "outcome_at"
WEIGHT_COLUMN = "weight"
_MANIFEST = "manifest.json"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class LabelColumns:
    """The roles of label data's columns.

    items: the variables that identify an item; in grouped data they, the labels and the weight are lists
    context: the variables that identify a context; None: all columns without another role
    outcome_at: when the outcome was observed; it must be later than the time. Without labels there is none
    time_unit: of integers in these two columns: "s", "ms", "us", "ns" or "day" since 1970, in UTC; with "day" dates
        are accepted too, as their beginning in UTC. None: integers and dates are refused
    label: the only label, which is named `label` at rest
    labels: several labels, which keep their names, or an empty tuple: no label. None: `label`
    weight: each item's weight in training and metrics, named `weight` at rest
    keep: columns that are carried along, such as inclusion_probability: one plain value, or null, for each context and
        time. They are neither data nor features

    >>> LabelColumns(items=("video_id",), labels=("play", "minutes")).label_names
    {'play': 'play', 'minutes': 'minutes'}
    """

    items: tuple[str, ...]
    context: tuple[str, ...] | None = None
    time: str = TIME_COLUMN
    label: str = LABEL_COLUMN
    outcome_at: str = OUTCOME_COLUMN
    time_unit: TimeUnit | None = None
    labels: tuple[str, ...] | None = None
    weight: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject a bare string, which would be read as one name per letter, and an unknown unit."""
        if self.time_unit is not None and self.time_unit not in get_args(TimeUnit):
            raise LabelError.unknown("time_unit", str(self.time_unit), get_args(TimeUnit))
        for what in ("items", "context", "labels", "keep"):
            names = getattr(self, what)
            if isinstance(names, str):
                raise LabelError.mistaken(what, names, "names of columns", f'write {what}=("{names}",)')

    @property
    def label_names(self) -> dict[str, str]:
        """Name at rest of each label → name in the source."""
        return {LABEL_COLUMN: self.label} if self.labels is None else {name: name for name in self.labels}

    @property
    def own_names(self) -> dict[str, str]:
        """Name at rest → name in the source, of all columns except variables and those that are carried along."""
        outcome = {OUTCOME_COLUMN: self.outcome_at} if self.label_names else {}
        weight = {} if self.weight is None else {WEIGHT_COLUMN: self.weight}
        return {TIME_COLUMN: self.time, **outcome, **self.label_names, **weight}

    def check(self) -> None:
        """Raise LabelError or ParadoxError for roles that are wrong for any label data."""
        if self.labels is not None and self.label != LABEL_COLUMN:
            raise LabelError.because(
                f"label data names both label = '{self.label}' and labels", "leave one of them out"
            )
        at_rest = [name.casefold() for name in (TIME_COLUMN, OUTCOME_COLUMN, WEIGHT_COLUMN, *(self.labels or ()))]
        taken = sorted({name for name in self.labels or () if at_rest.count(name.casefold()) > 1})
        if taken:
            raise LabelError.because(
                f"label '{taken[0]}' has a name that the rows have already", "give it another name: SELECT … AS …"
            )
        if not self.items:
            raise LabelError.because(
                "label data names no items", 'name the columns that identify one: items=("video_id",)'
            )
        if self.context == ():
            raise _no_context()
        own = self.own_names
        used = [*(self.context or ()), *self.items, *own.values(), *self.keep]
        repeated = sorted({name for name in used if used.count(name) > 1})
        outcomes = (*self.label_names.values(), *([self.outcome_at] if self.label_names else []))
        leaks = [name for name in repeated if name in outcomes and name in (*(self.context or ()), *self.items)]
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
        plain = (*self.own_names.values(), *self.keep)
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
        reserved = {TIME_COLUMN, LABEL_COLUMN, OUTCOME_COLUMN, *(name.casefold() for name in self.own_names)}
        for name in (*context, *self.items, *self.keep):
            if name.casefold() in reserved:
                raise LabelError.because(
                    f"column '{name}' of the label data would clash with the rows' own {name.casefold()}",
                    f"leave it out of the query, SELECT * EXCEPT ({name}), or give it another name",
                )
        return replace(self, context=context)


@dataclass(frozen=True)
class KeptColumn(JsonRecord):
    """A column of label data that is carried along, and its type."""

    name: str
    type: pa.DataType

    def to_json(self) -> dict[str, Any]:
        """Write the column as text fields."""
        return {"name": self.name, **type_to_json(self.type)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read fields that `to_json` wrote."""
        return cls(fields["name"], type_from_json(fields))


@dataclass(frozen=True)
class LabelShape:
    """The columns of label data at rest: one row for each context and time, items and labels as aligned lists.

    labels: names of the labels' columns, list<float32>
    weighted: whether there is a column `weight`, list<float32>
    kept: columns that are carried along
    """

    context: tuple[DataKey, ...]
    items: tuple[DataKey, ...]
    labels: tuple[str, ...] = (LABEL_COLUMN,)
    weighted: bool = False
    kept: tuple[KeptColumn, ...] = ()

    @property
    def of_items(self) -> tuple[str, ...]:
        """The columns of lists, apart from the items' own."""
        return (*self.labels, WEIGHT_COLUMN) if self.weighted else self.labels

    @property
    def schema(self) -> pa.Schema:
        """Their schema. `outcome_at` is when the last of the row's outcomes was observed: then its labels are known."""
        return pa.schema(
            [
                *((key.name, key.type) for key in self.context),
                (TIME_COLUMN, TIME),
                *([(OUTCOME_COLUMN, TIME)] if self.labels else []),
                *((key.name, pa.list_(key.type)) for key in self.items),
                *((name, pa.list_(pa.float32())) for name in self.of_items),
                *((column.name, column.type) for column in self.kept),
            ]
        )


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
    outcome_columns: the names of labels and outcome, at rest and in the source, and those of the weight and of columns
        that are carried along: never data for a feature
    source: the query and the tables that the rows come from, empty if not recorded
    named: whether a person chose the id; a vacuum never deletes such label data. Older manifests do not record this, so
        theirs count as named
    label_names: the labels' columns; those of older manifests have one, `label`
    weighted: whether each item has a weight
    kept: columns that are carried along
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
