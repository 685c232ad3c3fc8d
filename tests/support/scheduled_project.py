"""A project with work on schedule: a selection, an experiment with an encoder of its own, and their tables."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PROFILES, VIDEOS = 60, 12
SHOWN_AT = datetime(2099, 1, 1, tzinfo=UTC)  # after any snapshot of these tests
FILES = {
    "specs/everyone.toml": """
        [tables]
        profiles = { path = "../profiles.parquet" }

        [experiments.everyone]
        query = "SELECT profile_id, country FROM profiles"
        key = ["profile_id", "country"]
        fraction = 1.0
        """,
    "specs/home.toml": """
        encoders = ["dag_encoders:watched"]

        [schedule]
        training = "daily"

        [tables]
        shown = { path = "../shown.parquet" }

        [labels]
        query = "SELECT *, time + INTERVAL 1 HOUR AS outcome_at FROM shown"
        items = ["video_id"]

        [split]
        by_time = false
        group = "profile_id"
        """,
    "dag_encoders.py": """
        from encoders import feature_encoder
        from schemas.data_keys import service_element

        HISTORY = service_element("history", "list<struct<video_id: int64, minutes: float>>")

        @feature_encoder(data=[HISTORY], features=["watched"])
        def watched(context, items, data, out):
            for i in range(len(items.video_id)):
                out.watched[i] = float(len(data.history.video_id)) + items.video_id[i] / 100
        """,
}


@dataclass
class ScheduledProject:
    """The project. set: the one set of services on schedule, as the project file says it."""

    folder: Path
    proxy: str = "127.0.0.1:1"
    submit: str = 'master = "local[2]"'
    spark: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, fields: str) -> None:
        """Write the project file, with one set of services."""
        settings = "".join(f'"{key}" = "{value}"\n' for key, value in self.spark.items())
        (self.folder / "delorean.toml").write_text(
            f'proxies = ["{self.proxy}"]\nencoders = ["encoders.library", "dag_encoders"]\n\n'
            f'[schedule]\nspecs = "specs"\n\n[schedule.snapshots.{name}]\n{fields}\n\n[submit]\n{self.submit}\n\n'
            f'[spark]\n"spark.ui.enabled" = "false"\n{settings}'
        )


def write_project(folder: Path, times: list[datetime]) -> Path:
    """Write all but the project file.

    times: when each profile was shown every video
    """
    (folder / "specs").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    profiles = list(range(PROFILES))
    country = ["US" if profile % 3 else "BR" for profile in profiles]
    pq.write_table(pa.table({"profile_id": profiles, "country": country}), folder / "profiles.parquet")
    rows = [
        {"profile_id": p, "country": country[p], "time": at, "video_id": v, "label": float((p + v) % 4 == 0)}
        for p in profiles
        for v in range(VIDEOS)
        for at in times
    ]
    types = [pa.int64(), pa.string(), pa.timestamp("us", "UTC"), pa.int64(), pa.float32()]
    schema = pa.schema(list(zip(rows[0], types, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "shown.parquet")
    return folder


def watched_videos(profile: int, day: int) -> int:
    """Say how many videos a profile had watched when a day's snapshot was taken, soon after midnight."""
    return (profile + day) % 7


def videos(count: int) -> list[dict[str, Any]]:
    return [{"video_id": video, "minutes": 1.5} for video in range(count)]
