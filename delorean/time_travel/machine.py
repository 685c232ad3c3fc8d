"""The time machine: gives access to past moments, and shows which exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from delorean.labels import TIME_COLUMN, LabelColumns
from delorean.state.rules import AsOf
from delorean.time_travel.moment import Moment
from encoders.encoder import FeatureEncoder
from schemas.errors import ConfigError, NaiveTimeError
from schemas.plain_text import plain_text
from snapshotter.index import SnapshotIndex
from snapshotter.storage import Storage


@dataclass(frozen=True, repr=False)
class TimeMachine:
    """Gives the data as of any past moment.

    `TimeMachine(index, storage).at(t)["viewing_history"].to_polars()`
    """

    index: SnapshotIndex
    storage: Storage

    def __post_init__(self) -> None:
        """Raise ConfigError for an index or storage that is not an open one."""
        if not isinstance(self.index, SnapshotIndex):
            raise ConfigError.mistaken("index", self.index, "an open index", "open_index(project.index)")
        if not isinstance(self.storage, Storage):
            raise ConfigError.mistaken("storage", self.storage, "an open storage", "open_storage(project.storage)")

    def at(self, moment: datetime | str, max_age: timedelta | None = None) -> Moment:
        """Return a moment; nothing captured after it is visible there.

        moment: also as text, `2026-01-31T12:00:00Z`
        max_age: how old services' state may be; None: any age. A version of a global element is valid until the next

        Raises ConfigError for what is not a time, NaiveTimeError for a time without a zone.
        """
        try:
            moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        except ValueError as error:
            raise ConfigError.because(f"'{moment}' is not a time", "write one such as 2026-01-31T12:00:00Z") from error
        if not isinstance(moment, datetime):
            raise ConfigError.mistaken("moment", moment, "a datetime", "write one such as 2026-01-31T12:00:00Z")
        if moment.tzinfo is None:
            raise NaiveTimeError.because(f"time {moment.isoformat()} has no zone", "give it one: tzinfo=UTC")
        try:
            moment = moment.astimezone(UTC)
        except OverflowError as error:
            raise ConfigError.because(f"time {moment.isoformat()} is beyond the years 1 to 9999 in UTC") from error
        return Moment(self.index, self.storage, moment, AsOf(max_age=max_age))

    def features(
        self,
        rows: Any,
        encoders: FeatureEncoder | Sequence[FeatureEncoder],
        *,
        items: Sequence[str],
        context: Sequence[str] | None = None,
        time: str = TIME_COLUMN,
        rules: Mapping[str, AsOf] | None = None,
    ) -> pa.Table:
        """Encode rows from the state as of their own times, in this process and without writing anything.

        rows: a frame of contexts, times and items, one row for each item or lists of them; labels may be missing
        encoders: may be defined in a notebook's cell
        items, context: columns of the items' and the context's variables; None: all the others are the context
        rules: element's name → as-of rule

        Returns one row for each context and time: items and features as lists, and what served each element when.
        """
        from delorean.generation.preview import preview_features  # encoding needs more imports than reading state

        items = [items] if isinstance(items, str) else items
        columns = LabelColumns(tuple(items), None if context is None else tuple(context), time)
        return preview_features(rows, encoders, self.index, self.storage, columns, rules)

    def __repr__(self) -> str:
        """One line for people."""
        return plain_text(f"time machine {self.index.uri}: data in {self.storage.uri}")
