"""What one would write by hand: Spark joins the state to the labels, mapInPandas computes the same features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  # Spark's own convention

DAY = 86_400_000_000.0


def run(spark: SparkSession, folder: Path) -> None:
    """Join, compute and write."""
    labels = spark.read.parquet(str(folder / "labels.parquet"))
    rows = labels.groupBy("profile_id", "time").agg(
        F.min("outcome_at").alias("outcome_at"),
        F.collect_list("video_id").alias("video_id"),
        F.collect_list("label").alias("label"),
    )
    for name, fields in STATE.items():
        rows = rows.join(as_arrays(spark, folder, name, fields), "profile_id", "left").where(
            F.col(f"{name}_at").isNull() | (F.col(f"{name}_at") <= F.col("time"))
        )
    rows = rows.withColumn("now", F.unix_micros("time"))
    features = rows.mapInPandas(compute, SCHEMA)
    features.write.mode("overwrite").parquet(str(folder / "by_hand"))


STATE = {
    "viewing_history": ("video_id", "minutes", "watched_at"),
    "my_list": ("video_id", "added_at"),
    "predicted_ratings": ("video_id", "rating"),
}
SCHEMA = (
    "profile_id bigint, time timestamp, outcome_at timestamp, video_id array<bigint>, label array<float>, "
    "minutes_watched array<float>, times_watched array<float>, days_since_watched array<float>, "
    "in_my_list array<float>, days_in_my_list array<float>, "
    "predicted_rating array<float>, predicted_rating_above_mean array<float>"
)


def as_arrays(spark: SparkSession, folder: Path, name: str, fields: tuple[str, ...]) -> DataFrame:
    """A service's state with one array for each field, which pandas takes far better than structs."""
    state = spark.read.parquet(str(folder / "store" / "snapshots" / name / "run"))
    columns = []
    for field in fields:
        values = F.col(f"value.{field}")
        if field.endswith("_at"):
            values = F.transform(values, F.unix_micros)
        columns.append(values.alias(f"{name}_{field}"))
    return state.select("profile_id", F.col("captured_at").alias(f"{name}_at"), *columns)


def compute(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """One context after the other, vectorised over its items and its state."""
    for batch in batches:
        yield pd.DataFrame([one_context(row) for row in batch.itertuples(index=False)])


def one_context(row: tuple) -> dict:  # type: ignore[type-arg]  # a pandas row
    items = row.video_id
    age = row.now - row.viewing_history_watched_at
    seen = (row.viewing_history_video_id[None, :] == items[:, None]) & (age >= 0)[None, :]
    minutes = np.where(seen & (age <= 30 * DAY)[None, :], row.viewing_history_minutes.astype(float)[None, :], 0.0)
    since = np.where(seen, age[None, :], np.inf).min(axis=1, initial=np.inf) / DAY
    waited = row.now - row.my_list_added_at
    wanted = (row.my_list_video_id[None, :] == items[:, None]) & (waited >= 0)[None, :]
    first = wanted.argmax(axis=1)
    rated = row.predicted_ratings_video_id[None, :] == items[:, None]
    rating = np.where(rated.any(axis=1), row.predicted_ratings_rating[rated.argmax(axis=1)], np.nan)
    return {
        "profile_id": row.profile_id,
        "time": row.time,
        "outcome_at": row.outcome_at,
        "video_id": items,
        "label": row.label,
        "minutes_watched": minutes.sum(axis=1).astype(np.float32),
        "times_watched": seen.sum(axis=1).astype(np.float32),
        "days_since_watched": np.where(np.isinf(since), np.nan, since).astype(np.float32),
        "in_my_list": wanted.any(axis=1).astype(np.float32),
        "days_in_my_list": np.where(wanted.any(axis=1), waited[first] / DAY, np.nan).astype(np.float32),
        "predicted_rating": rating.astype(np.float32),
        "predicted_rating_above_mean": (rating - row.predicted_ratings_rating.astype(float).mean()).astype(np.float32),
    }


def check(spark: SparkSession, folder: Path, ours: str, features: tuple[str, ...]) -> None:
    """Both ways must give the same features, or their speeds cannot be compared."""
    theirs = spark.read.parquet(str(folder / "by_hand")).toPandas().sort_values("profile_id")
    mine = DeltaTable(ours).to_pandas().sort_values("profile_id")
    order = [np.argsort(items) for items in theirs["video_id"]]
    for name in features:
        a = np.concatenate(list(mine[name]))
        b = np.concatenate([np.asarray(values)[o] for values, o in zip(theirs[name], order, strict=True)])
        np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)
