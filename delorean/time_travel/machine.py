"""The time machine: gives access to past moments, and shows which exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from delorean.labels import TIME_COLUMN, LabelColumns
from delorean.state.rules import AsOf
from delorean.time_travel.moment import Moment
from encoders.encoder import FeatureEncoder
from schemas.display import Displayed, Headline, Note, Part, Table
from schemas.drawing import Cell, HeatMap
from schemas.errors import ConfigError, NaiveTimeError
from schemas.services import Status
from snapshotter.index import SnapshotIndex
from snapshotter.records import END_OF_TIME, ServiceSnapshot, SnapshotRun
from snapshotter.storage import Storage

# What a look at the machine shows at most, so that it takes no longer the longer services are captured.
_MOST_RUNS = 200
_MOST_DAYS = 31
_MOST_ELEMENTS = 20


@dataclass(frozen=True, repr=False)
class TimeMachine(Displayed):
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

    def _headline(self) -> Headline:
        return Headline("time machine", self.index.uri, f"data in {self.storage.uri}")

    def _parts(self) -> Iterator[Part]:
        runs = self.index.runs(_MOST_RUNS)
        if not any(snapshot.captured_from for run in runs for snapshot in run.services):
            yield Note("no snapshot is published yet: delorean snapshot takes one")
        else:
            yield _answered_by_day(runs)
        names = self.index.global_elements()
        yield Table([self._versions_of(name) for name in names[:_MOST_ELEMENTS]], "global elements", of=len(names))

    def _versions_of(self, element: str) -> dict[str, Any]:
        versions = self.index.global_versions(element, END_OF_TIME, _MOST_RUNS, skip_unreadable=True)
        newest = versions[0] if versions else None
        return {
            "element": element,
            "versions": len(versions) if len(versions) < _MOST_RUNS else f"{_MOST_RUNS} or more",
            "newest": newest and newest.version_id,
            "valid_from": newest and newest.valid_from,
            "rows": newest and sum(file.rows for file in newest.files),
        }


def _answered_by_day(runs: Sequence[SnapshotRun]) -> HeatMap:
    """Draw by service and day what runs recorded; nothing but these records is read."""
    taken: dict[str, dict[date, list[ServiceSnapshot]]] = {}
    for run in runs:
        for snapshot in run.services:
            if snapshot.captured_from is not None:
                taken.setdefault(snapshot.service.name, {}).setdefault(snapshot.captured_from.date(), []).append(
                    snapshot
                )
    captured = {day for by_day in taken.values() for day in by_day}
    last, span = max(captured), (max(captured) - min(captured)).days
    days = [last - timedelta(days=back) for back in range(min(span, _MOST_DAYS - 1), -1, -1)]
    shown = sorted(taken)[:_MOST_ELEMENTS]
    left_out = f", {len(shown)} of {len(taken)} services" if len(taken) > len(shown) else ""
    return HeatMap(
        f"Share of the contexts asked on each day that services really answered, as the last {len(runs)} runs"
        f" recorded it{left_out}; day_coverage() says what can be travelled to.",
        [day.isoformat() for day in days],
        {
            (name, None): {day.isoformat(): _cell(taken[name][day]) for day in days if day in taken[name]}
            for name in shown
        },
    )


def _cell(snapshots: Sequence[ServiceSnapshot]) -> Cell:
    asked = sum(snapshot.asked for snapshot in snapshots)
    answered = sum(snapshot.counts.get(Status.OK, 0) for snapshot in snapshots)
    runs = ", ".join(snapshot.run_id for snapshot in snapshots[:3]) + (" …" if len(snapshots) > 3 else "")
    return Cell(answered / asked if asked else None, said=f"{answered:,} of {asked:,} in {runs}")
