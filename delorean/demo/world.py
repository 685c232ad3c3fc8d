"""The company's events, generated or from MovieLens: plays, lists, ratings, what was shown where, and who and what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.arrow_types import parse_type
from schemas.errors import CorruptFileError, MissingFileError
from snapshotter.records import from_micros, to_micros

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

DAY: Final = 86_400_000_000  # microseconds
HOUR: Final = DAY // 24
SNAPSHOT_HOUR: Final = 16  # of each day, UTC, while the company's clock stands still
OUTCOME_HOURS: Final = 4  # a candidate is a positive if it is started within these hours
HISTORY_DAYS: Final = 45  # before the first day

_COLUMNS: Final = {
    "profiles": "profile_id: int64, country: string, device: string",
    "videos": "video_id: int64, title: string, genres: list<string>, release_year: int32, runtime_minutes: float, "
    "available_from: timestamp[us, UTC]",
    "plays": "profile_id: int64, video_id: int64, started_at: timestamp[us, UTC], watched_at: timestamp[us, UTC], "
    "minutes: float",
    "list_entries": "profile_id: int64, video_id: int64, added_at: timestamp[us, UTC], removed_at: timestamp[us, UTC]",
    "ratings": "profile_id: int64, video_id: int64, rating: float, rated_at: timestamp[us, UTC]",
    "impressions": "profile_id: int64, country: string, device: string, time: timestamp[us, UTC], "
    "video_ids: list<int64>",
    "searches": "query: string, profile_id: int64, country: string, time: timestamp[us, UTC], video_ids: list<int64>",
    "pages": "seed_id: int64, profile_id: int64, country: string, time: timestamp[us, UTC], video_ids: list<int64>",
    "notifications": "profile_id: int64, country: string, time: timestamp[us, UTC], video_ids: list<int64>",
}
_SCHEMAS: Final = {name: pa.schema(list(parse_type(f"struct<{columns}>"))) for name, columns in _COLUMNS.items()}


@dataclass(frozen=True)
class World:
    """All events of a company, from which its services can answer as of any moment.

    profiles: with country and device
    videos: the catalogue; `available_from` is null for videos that were always available
    plays: `started_at`, `watched_at` (its end, when it enters the viewing history), minutes watched
    list_entries: when a video was added to and removed from a profile's list; `removed_at` is null while it is listed
    ratings: explicit stars, 0.5 to 5
    impressions: homepages with their candidates, before any of them was played
    searches: what was searched for, and the videos that were shown for it
    pages: the videos whose page was opened, and the similar videos that it showed
    notifications: when profiles were to be notified of a video, and those to choose from
    starts_at: midnight (UTC) of the first day with a snapshot; events start HISTORY_DAYS before it
    days: number of days from there
    notes: how the world was made, for the report
    """

    name: str
    starts_at: datetime
    days: int
    notes: tuple[str, ...]
    profiles: pa.Table
    videos: pa.Table
    plays: pa.Table
    list_entries: pa.Table
    ratings: pa.Table
    impressions: pa.Table
    pages: pa.Table
    searches: pa.Table = field(default_factory=_SCHEMAS["searches"].empty_table)
    notifications: pa.Table = field(default_factory=_SCHEMAS["notifications"].empty_table)

    def snapshot_moment(self, day: int) -> datetime:
        """Return the moment of a day at which the services' state is captured."""
        return self.starts_at + timedelta(days=day, hours=SNAPSHOT_HOUR)

    def write(self, folder: Path) -> None:
        """Write each table as Parquet, with the other fields in the metadata of each."""
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {
            "name": self.name,
            "starts_at": str(to_micros(self.starts_at)),
            "days": str(self.days),
            "notes": "\n".join(self.notes),
        }
        for name in _SCHEMAS:
            pq.write_table(getattr(self, name).replace_schema_metadata(metadata), folder / f"{name}.parquet")


def table(name: str, columns: dict[str, object]) -> pa.Table:
    """Build one of a world's tables from arrays; times may be integer microseconds."""
    schema = _SCHEMAS[name]
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def read_world(folder: Path) -> World:
    """Read a folder written by `World.write`. Raises MissingFileError and CorruptFileError with the path."""
    tables = {}
    for name, schema in _SCHEMAS.items():
        path = folder / f"{name}.parquet"
        try:
            content = pq.read_table(path)
        except FileNotFoundError as error:
            raise MissingFileError.because(f"{path} does not exist, expected a table of the demo's world") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptFileError.because(
                f"{path} is not a readable Parquet file: {error}", "run the demo again"
            ) from error
        if not content.schema.equals(schema):
            raise CorruptFileError.because(
                f"{path} does not have the columns of a world's {name}", "run the demo again"
            )
        tables[name] = content
    metadata = {key.decode(): text.decode() for key, text in tables["plays"].schema.metadata.items()}
    return World(
        name=metadata["name"],
        starts_at=from_micros(int(metadata["starts_at"])),
        days=int(metadata["days"]),
        notes=tuple(metadata["notes"].split("\n")),
        **tables,
    )


def micros_of(column: pa.ChunkedArray, absent: int = 0) -> NDArray[np.int64]:
    """Convert a time column to integer microseconds; nulls become `absent`."""
    micros: NDArray[np.int64] = column.cast(pa.int64()).fill_null(absent).to_numpy()
    return micros


class SoonStarted:
    """Tells which of some shown videos a profile started within OUTCOME_HOURS.

    plays: of a world
    """

    def __init__(self, plays: pa.Table) -> None:
        started, profile = micros_of(plays["started_at"]), plays["profile_id"].to_numpy()
        order = np.lexsort((started, profile))
        profiles, firsts = np.unique(profile[order], return_index=True)
        parts = (np.split(values[order], firsts[1:]) for values in (started, plays["video_id"].to_numpy()))
        self._plays = {int(who): both for who, *both in zip(profiles, *parts, strict=True)}

    def of(self, profile_id: int, moment: int, shown: Sequence[int]) -> Ints:
        """Return the videos in the order of their starts. moment: microseconds at which they were shown."""
        if profile_id not in self._plays:
            return np.zeros(0, dtype=np.int64)
        started, videos = self._plays[profile_id]
        soon = slice(*np.searchsorted(started, [moment, moment + OUTCOME_HOURS * HOUR], side="right").tolist())
        watched: Ints = videos[soon]
        return watched[np.isin(watched, shown)]
