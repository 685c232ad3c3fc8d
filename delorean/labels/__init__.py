"""Label data: contexts, a time for each, their items, a label for each item and when its outcome was observed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import pyarrow as pa

from schemas.data_keys import DataKey
from schemas.display import Code, Displayed, Facts, Headline, Part
from schemas.errors import ConfigError, LabelError, MissingFileError, ParadoxError
from schemas.tables import TIME
from snapshotter.records import DataFile, from_micros, to_micros
from snapshotter.storage import Storage

FOLDER = "labels"
TIME_COLUMN = "time"
LABEL_COLUMN = "label"
OUTCOME_COLUMN = "outcome_at"


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of somebody's label data mean what.

    items: the variables that make an item; in grouped data they and the label are lists
    context: the variables that make a context; None: all columns not named otherwise
    outcome_at: when the outcome was observed; it must be later than the time
    """

    items: tuple[str, ...]
    context: tuple[str, ...] | None = None
    time: str = TIME_COLUMN
    label: str = LABEL_COLUMN
    outcome_at: str = OUTCOME_COLUMN

    def __post_init__(self) -> None:
        """Refuse one name where several are meant: its letters would be."""
        for what, given in (("items", self.items), ("context", self.context)):
            if isinstance(given, str):
                raise LabelError.mistaken(what, given, "names of columns", f'write {what}=("{given}",)')

    def resolve(self, names: list[str]) -> LabelColumns:
        """Name the context, checking that every column is there. Raises LabelError."""
        if not self.items:
            raise LabelError.because("label data names no items", 'say which columns make one: items=("video_id",)')
        plain = (self.time, self.label, self.outcome_at)
        context = self.context
        if context is None:
            context = tuple(name for name in names if name not in (*self.items, *plain))
        if not context:
            raise LabelError.because("label data has no context variables", "add at least one column beside the items")
        wanted = [*context, *self.items, *plain]
        for name in wanted:
            if name not in names:
                raise LabelError.unknown("column of the label data", name, names)
        twice = sorted({name for name in wanted if wanted.count(name) > 1})
        leaks = [name for name in twice if name in (self.label, self.outcome_at)]
        if leaks:
            raise ParadoxError.because(
                f"label column '{leaks[0]}' is offered as a context or item variable too",
                "no feature may know its label: leave it out of items and context",
            )
        if twice:
            raise LabelError.because(f"label data uses {', '.join(twice)} for two things", "give each a column")
        return LabelColumns(self.items, context, *plain)


@dataclass(frozen=True, repr=False)
class Labels(Displayed):
    """Label data at rest: grouped by context and time, in buckets, each sorted by context and time.

    contexts: label rows, one for each (context, time)
    item_count: items of all of them
    earliest, latest: the first and last time coordinate
    outcome_columns: what label and outcome were called where they came from, and are here: never data for a feature
    source: the query and the tables it was made from, empty where nobody said
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

    @property
    def contexts(self) -> int:
        """Number of label rows."""
        return sum(file.rows for file in self.files)

    @property
    def schema(self) -> pa.Schema:
        """Of the files."""
        return labels_schema(self.context, self.items)

    def _headline(self) -> Headline:
        return Headline("label data", self.labels_id, f"{self.contexts:,} rows, {self.item_count:,} items")

    def _parts(self) -> Iterator[Part]:
        spec = self.source.get("spec", {})
        known: dict[str, Any] = {
            "context": ", ".join(f"{key.name}: {key.type}" for key in self.context),
            "items": ", ".join(f"{key.name}: {key.type}" for key in self.items),
            "times": f"{self.earliest:%Y-%m-%d %H:%M} to {self.latest:%Y-%m-%d %H:%M} UTC",
            "buckets": f"{self.buckets} by {self.bucket_variable}, in {len(self.files)} files",
        }
        if "query" in spec:
            known["query"] = Code(" ".join(spec["query"].split()))
        yield Facts(known)

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
    """Publish label data under its id in one conditional write. Raises ConfigError if the id is taken."""
    if not storage.create(manifest_path(labels.labels_id), json.dumps(labels.to_json(), indent=1).encode()):
        raise ConfigError.because(f"label data '{labels.labels_id}' exists already", "load it, or choose another id")
    return labels


def load_labels(labels_id: str, storage: Storage) -> Labels:
    """Give label data that was materialised earlier. Raises LabelError for an id that is not there or not readable."""
    try:
        with storage.open_input(manifest_path(labels_id)) as manifest:
            return Labels.from_json(json.loads(manifest.read()))
    except MissingFileError as error:
        raise LabelError.because(f"there is no label data '{labels_id}' in {storage.uri}", "materialise it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError.because(
            f"'{manifest_path(labels_id)}' is no manifest of label data: {error!r}", "restore it from a copy"
        ) from error


def names_of_labels(storage: Storage) -> list[str]:
    """Name the label data in a storage, sorted."""
    paths = [file.path.split("/") for file in storage.list(FOLDER)]
    return sorted(path[1] for path in paths if path[2:] == ["manifest.json"])


def manifest_path(labels_id: str) -> str:
    """Say where the manifest of label data lies, relative to the storage's root."""
    return f"{FOLDER}/{labels_id}/manifest.json"


def new_folder(labels_id: str) -> str:
    """Name a folder for the files of label data, another for each try: one that died is never in the next one's way."""
    return f"{FOLDER}/{labels_id}/{uuid.uuid4().hex[:8]}"


def new_labels_id() -> str:
    """Make an id for label data that nobody gave a name."""
    return uuid.uuid4().hex[:12]


def is_unnamed(labels_id: str) -> bool:
    """Tell an id that `new_labels_id` made from a name that somebody gave.

    >>> is_unnamed(new_labels_id()), is_unnamed("homepages-2026")
    (True, False)
    """
    return re.fullmatch("[0-9a-f]{12}", labels_id) is not None
