"""Label data is measured a row group at a time; Polars and brute force say what must come out."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project_at_rest import START

from delorean.label_quality.limits import LabelQualityLimits
from delorean.label_quality.measure import measure_label_quality, require_quality
from delorean.label_quality.near_repeats import NearRepeats
from delorean.label_quality.report import DAY, LabelCounts, LabelQuality
from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from schemas.errors import ConfigError, LabelError, QualityError
from schemas.tables import TIME
from snapshotter.storage import Storage, open_storage

COLUMNS = LabelColumns(("video_id",), labels=("play", "thumbs"), keep=("stratum",), context=("profile_id", "country"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return open_storage(f"file://{tmp_path_factory.mktemp('labels')}")


def shown(contexts: int = 900, seed: int = 0, share: float = 0.2) -> pl.DataFrame:
    """Contexts of 1 to 7 items on three days; thumbs are mostly unknown."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 8, contexts)
    context = np.repeat(np.arange(contexts), sizes)
    minutes = 2 * np.sort(random.choice(max(3 * 12 * 60, contexts), contexts, replace=False))
    wait = random.integers(1, 100_000, contexts)
    thumbs = random.choice([1.0, 0.0, -1.0, None], len(context), p=[0.1, 0.1, 0.1, 0.7])
    return pl.DataFrame(
        {
            "profile_id": context % 100,
            "country": random.choice(["US", "DE"], 100)[context % 100],
            "stratum": random.choice(["a", "b", None], contexts, p=[0.6, 0.3, 0.1])[context].tolist(),
            "time": [START + timedelta(minutes=int(m)) for m in minutes[context]],
            "video_id": np.arange(len(context)) - np.repeat(np.cumsum(sizes) - sizes, sizes),
            "play": (random.random(len(context)) < share).astype(np.float32),
            "thumbs": pl.Series(thumbs.tolist(), dtype=pl.Float32),
            "outcome_at": [
                START + timedelta(minutes=int(m), seconds=int(w))
                for m, w in zip(minutes[context], wait[context], strict=True)
            ],
        }
    )


def materialised(rows: pl.DataFrame, storage: Storage, columns: LabelColumns = COLUMNS) -> Labels:
    unknown_as_nan = rows.with_columns(pl.col(pl.Float32).fill_null(math.nan))
    return materialise_labels(unknown_as_nan, columns, storage, buckets=4)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return shown()


@pytest.fixture(scope="module")
def measured(rows: pl.DataFrame, storage: Storage) -> LabelQuality:
    return measure_label_quality(materialised(rows, storage), storage, LabelQualityLimits(by=("country", "stratum")))


def counts_of(quality: LabelQuality) -> dict[tuple[str, str, str], LabelCounts]:
    return {(each.label, each.by, each.group): each for each in quality.counts}


def expected_counts(rows: pl.DataFrame, label: str) -> tuple[object, ...]:
    by_context = rows.group_by("profile_id", "time").agg(
        known=pl.col(label).count(), positives=(pl.col(label) > 0).sum().cast(pl.Int64)
    )
    known = by_context.filter(pl.col("known") > 0)
    return (
        len(by_context),
        len(rows),
        rows[label].count(),
        (rows[label] > 0).sum(),
        pytest.approx(rows[label].mean()),
        known.filter(pl.col("positives") == 0).height,
        known.filter(pl.col("positives") == pl.col("known")).height,
    )


def values(counts: LabelCounts) -> tuple[object, ...]:
    return (
        *(counts.contexts, counts.items, counts.known, counts.positives, counts.mean),
        *(counts.without_positives, counts.all_positive),
    )


@pytest.mark.parametrize("label", ["play", "thumbs"])
def test_shares_by_task_column_and_day_are_those_of_polars(
    rows: pl.DataFrame, measured: LabelQuality, label: str
) -> None:
    counts = counts_of(measured)
    assert values(counts[label, "", ""]) == expected_counts(rows, label)
    for by, groups in {
        "country": rows.partition_by("country", as_dict=True),
        "stratum": rows.partition_by("stratum", as_dict=True),
        DAY: rows.with_columns(day=pl.col("time").dt.date().cast(pl.String)).partition_by("day", as_dict=True),
    }.items():
        assert {group for of, column, group in counts if (of, column) == (label, by)} == {
            "null" if key is None else key for (key,) in groups
        }
        for (key,), part in groups.items():
            assert values(counts[label, by, "null" if key is None else key]) == expected_counts(part, label)


def test_quantiles_of_items_and_delays_are_those_of_polars_to_a_hundredth(
    rows: pl.DataFrame, measured: LabelQuality
) -> None:
    by_context = rows.group_by("profile_id", "time").agg(pl.len(), pl.col("outcome_at").max())
    delays = (by_context["outcome_at"] - by_context["time"]).dt.total_seconds()
    for share in (0.1, 0.5, 0.99, 1.0):
        assert measured.items_per_context[f"{share:g}"] == by_context["len"].quantile(share, "higher")
        assert measured.delay_seconds[f"{share:g}"] == pytest.approx(delays.quantile(share, "higher"), rel=0.01)


appearances = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 2), st.sampled_from([0.0, 1.0, None])),
    max_size=30,
    unique_by=lambda row: row[:3],
)


@settings(max_examples=200, deadline=None)
@given(appearances, st.integers(0, 3), st.integers(1, 4), st.booleans())
def test_near_repeats_are_counted_as_by_hand_however_rows_are_cut(
    rows: list[tuple[int, int, int, float | None]], near: int, size: int, texts: bool
) -> None:
    grouped: dict[tuple[int, int], list[tuple[int, float | None]]] = {}
    for context, time, item, label in sorted(rows, key=lambda row: row[:3]):
        grouped.setdefault((context, time), []).append((item, label))
    duplicates = contradictions = 0
    for context, time, item, label in rows:
        earlier = [row for row in rows if row[0] == context and row[2] == item and row[1] < time]
        if earlier:
            last = max(earlier, key=lambda row: row[1])
            if time - last[1] <= near:
                duplicates += last[3] == label
                contradictions += last[3] != label
    table = pa.table(
        {
            "who": pa.array(
                [str(key[0]) if texts else key[0] for key in grouped], pa.string() if texts else pa.int64()
            ),
            "time": pa.array([key[1] for key in grouped], pa.int64()).cast(TIME),
            "item": pa.array(
                [[str(item) if texts else item for item, _ in items] for items in grouped.values()],
                pa.list_(pa.string() if texts else pa.int64()),
            ),
            "label": pa.array([[label for _, label in items] for items in grouped.values()], pa.list_(pa.float32())),
        }
    )
    counter = NearRepeats(["who"], ["item"], ["label"], near)
    for start in range(0, len(table), size):
        counter.add(table.slice(start, size))
    assert (counter.duplicates, counter.contradictions) == (duplicates, {"label": contradictions})


def test_rows_that_were_logged_twice_and_rows_that_contradict_each_other_are_counted(storage: Storage) -> None:
    rows = shown().with_columns(stratum=pl.lit("a"))
    again = rows.with_columns(pl.col("time", "outcome_at") + pl.duration(seconds=30))
    other = again.with_columns(play=1 - pl.col("play"))
    for extra, expected in ((again, (len(rows), 0)), (other, (0, len(rows)))):
        quality = measure_label_quality(materialised(pl.concat([rows, extra]), storage), storage)
        assert (quality.duplicates, quality.contradictions["play"]) == expected
    far = LabelQualityLimits(near=timedelta(seconds=29))
    quality = measure_label_quality(materialised(pl.concat([rows, again]), storage), storage, far)
    assert quality.duplicates == 0


def test_changes_against_the_last_label_data_name_what_moved(storage: Storage) -> None:
    before, same, other = (
        materialised(shown(3_000, seed, share), storage) for seed, share in ((0, 0.2), (1, 0.2), (2, 0.5))
    )
    limits = LabelQualityLimits(by=("stratum",), max_change=0.1)
    still = measure_label_quality(same, storage, limits, before)
    assert still.violations == ()
    assert all(change.index < 0.1 for change in still.changes)
    moved = measure_label_quality(other, storage, limits, before)
    first = moved.changes[0]
    assert (first.what, moved.against) == ("values of 'play'", before.labels_id)
    assert (first.before, first.now) == (pytest.approx(0.2, abs=0.02), pytest.approx(0.5, abs=0.02)) or (
        first.before,
        first.now,
    ) == (pytest.approx(0.8, abs=0.02), pytest.approx(0.5, abs=0.02))
    p, q = first.before, first.now
    assert first.index == pytest.approx((q - p) * math.log(q / p) + (p - q) * math.log((1 - q) / (1 - p)))
    assert moved.violations[0].startswith("values of 'play' changed: stability index")


def test_label_data_against_itself_has_not_changed(
    measured: LabelQuality, rows: pl.DataFrame, storage: Storage
) -> None:
    labels = materialised(rows, storage)
    quality = measure_label_quality(labels, storage, against=labels)
    assert {change.what for change in quality.changes} >= {"items per context", "delay until the outcome"}
    assert all(change.index == 0 for change in quality.changes)


@pytest.mark.parametrize(
    ("limits", "violation"),
    [
        ({"max_positives": 0.1}, "positives of 'play'"),
        ({"min_positives": 0.5}, "positives of 'play'"),
        ({"max_unknown": 0.5}, "items without 'thumbs': 0."),
        ({"max_without_positives": 0.1}, "contexts without a positive 'play'"),
        ({"max_all_positive": 0.0}, "contexts whose 'play' is always positive"),
        ({"max_delay": timedelta(hours=20)}, "1 % of contexts wait longer than 1 day"),
    ],
)
def test_each_limit_is_reported_when_it_is_broken_and_not_before(
    rows: pl.DataFrame, storage: Storage, limits: dict[str, object], violation: str
) -> None:
    labels = materialised(rows, storage)
    broken = measure_label_quality(labels, storage, LabelQualityLimits(**limits))
    assert any(violation in each for each in broken.violations)
    assert not broken.failed
    (name,) = limits
    wide = {name: timedelta(days=9) if name == "max_delay" else 0.0 if name.startswith("min") else 1.0}
    assert measure_label_quality(labels, storage, LabelQualityLimits(**wide)).violations == ()


def test_limits_fail_only_where_the_policy_says_so(rows: pl.DataFrame, storage: Storage) -> None:
    labels = materialised(rows, storage)
    warned = measure_label_quality(labels, storage, LabelQualityLimits(max_positives=0.1))
    require_quality(warned)
    failed = measure_label_quality(labels, storage, LabelQualityLimits(max_positives=0.1, policy="fail"))
    with pytest.raises(QualityError, match=r"breaks its limits: positives of 'play': 0\.\d+, at most 0\.1 allowed"):
        require_quality(failed)


def test_label_data_without_labels_still_has_items(storage: Storage) -> None:
    unlabelled = LabelColumns(("video_id",), labels=(), context=("profile_id",))
    labels = materialised(shown().select("profile_id", "time", "video_id"), storage, unlabelled)
    quality = measure_label_quality(labels, storage)
    assert (quality.counts, quality.delay_seconds, quality.contradictions) == ((), {}, {})
    assert quality.items_per_context["1"] == 7


def test_a_column_that_label_data_lacks_is_named_with_a_similar_one(rows: pl.DataFrame, storage: Storage) -> None:
    with pytest.raises(LabelError, match="'contry' → did you mean 'country'"):
        measure_label_quality(materialised(rows, storage), storage, LabelQualityLimits(by=("contry",)))


def test_a_column_of_too_many_values_is_an_error_and_no_memory_is_filled(storage: Storage) -> None:
    contexts = 10_001
    rows = pl.DataFrame(
        {
            "profile_id": np.arange(contexts),
            "time": [START] * contexts,
            "video_id": 1,
            "label": 1.0,
            "outcome_at": [START + timedelta(hours=1)] * contexts,
        }
    )
    labels = materialise_labels(rows, LabelColumns(("video_id",)), storage)
    with pytest.raises(LabelError, match="'profile_id' has more than 10,000 values"):
        measure_label_quality(labels, storage, LabelQualityLimits(by=("profile_id",)))


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"max_duplicates": 1.5}, "expected a share from 0 to 1"),
        ({"max_positives": -0.1}, "expected a share from 0 to 1"),
        ({"max_change": 0}, "max_change is 0.0, expected more than 0"),
        ({"near": timedelta(seconds=-1)}, "near is negative"),
        ({"policy": "ignore"}, "unknown policy 'ignore'"),
        ({"by": "country"}, "expected names of columns"),
    ],
)
def test_limits_that_mean_nothing_are_rejected(limits: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        LabelQualityLimits(**limits)
