"""From a file that somebody's own program wrote to features."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from project_at_rest import long_labels, minutes

from delorean.generation import generate
from delorean.labels import LabelColumns
from delorean.labels.materialise import materialise_labels
from encoders import FeatureModel, feature_encoder, lookup
from schemas.data_keys import global_element
from schemas.plain_types import plain_table
from snapshotter.global_elements import publish_global
from snapshotter.storage.foreign_parquet import read_foreign_parquet

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def pandas_file(path):
    pd.DataFrame(
        {
            "video_id": [7, 8, 9],
            "year": pd.to_datetime(["2001-01-01", "2002-01-01", "2003-01-01"], utc=True),
            "release-year": [2001, 2002, 2003],
            "genre": pd.Categorical(["a", "b", None]),
            "opens, <when>": [time(9), time(10), time(11)],
            'the "price": net': [Decimal("1.50")] * 3,
            "a.b": pd.to_timedelta([1, 2, 3], unit="s"),
            "class": [[1], [], [2, 3]],
        }
    ).query("video_id > 7").to_parquet(path)


def polars_file(path):
    pl.DataFrame(
        {
            "video_id": [7, 8, 9],
            "year": pl.Series(
                [datetime(2000 + n, 1, 1, tzinfo=UTC) for n in (1, 2, 3)], dtype=pl.Datetime("ms", "UTC")
            ),
            "release-year": [2001, 2002, 2003],
            "genre": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "shelf": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
            "box": pl.Series([[1, 2], [3, 4], [5, 6]], dtype=pl.Array(pl.Int16, 2)),
            "nested": [[{"release-year": 1, "a: b": "x"}], [], []],
            "opens": [time(9), time(10), time(11)],
            "länge": [timedelta(minutes=1)] * 3,
            "since": [date(2026, 1, 1)] * 3,
        }
    ).filter(pl.col("video_id") > 7).write_parquet(path)


@pytest.mark.parametrize("write", [pandas_file, polars_file])
def test_features_are_made_from_files_as_pandas_and_polars_write_them(project, tmp_path, write):
    write(tmp_path / "videos.parquet")
    table = plain_table("videos", read_foreign_parquet(str(tmp_path / "videos.parquet")).read_all())
    videos = global_element("videos", pa.struct(list(table.schema)))
    assert publish_global(table, videos, minutes(0), project.storage, project.index, "v1")
    assert project.index.global_version("videos", "v1").element == videos

    @feature_encoder(data=[videos], features=["year", "genre_b"])
    def of_videos(context, items, data, out):
        for i in range(len(items.video_id)):
            row = lookup(data.videos, items.video_id[i])
            if row >= 0:
                out.year[i] = data.videos.year[row] // 31_536_000_000_000 + 1970
                out.genre_b[i] = 1.0 if data.videos.genre[row] == "b" else 0.0

    labels = materialise_labels(
        long_labels([(1, 15, 7, 1), (1, 15, 8, 0), (1, 15, 9, 1)]), LabelColumns(items=("video_id",)), project.storage
    )
    rows = generate(labels, FeatureModel([of_videos]), project.index, project.storage, "f").to_arrow().to_pylist()
    by_item = dict(zip(rows[0]["video_id"], zip(rows[0]["year"], rows[0]["genre_b"], strict=True), strict=True))
    assert str(by_item.pop(7)) == "(nan, nan)"  # filtered out of the file
    assert by_item == {8: (2002.0, 1.0), 9: (2003.0, 0.0)}
