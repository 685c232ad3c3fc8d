"""Label data that reveals its own labels: refused where it is certain, reported where it may be right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from project_at_rest import START

from delorean.labels import LabelColumns, Labels
from delorean.labels.materialise import materialise_labels
from delorean.leaks import LeakThresholds
from delorean.leaks.report import LabelReport
from delorean.leaks.variables import check_labels
from schemas.errors import ParadoxError
from snapshotter.storage import Storage, open_storage

Maker = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path}")


def shown(contexts: int = 120, items: int = 6, share: float = 0.3, seed: int = 3) -> pl.DataFrame:
    """Random labels: whoever foretells them knows them."""
    rng = np.random.default_rng(seed)
    rows = contexts * items
    bought = rng.random(rows) < share
    wait = rng.integers(1, 3_000, contexts)
    return pl.DataFrame(
        {
            "profile_id": np.repeat(np.arange(contexts) // 3, items),
            "country": np.repeat(rng.choice(["US", "FR", "NZ"], contexts), items),
            "time": [START + timedelta(hours=int(i)) for i in np.repeat(np.arange(contexts), items)],
            "video_id": np.tile(np.arange(items), contexts),
            "price": rng.integers(1, 40, rows) / 2,
            "label": bought.astype(np.int32),
            "outcome_at": [
                START + timedelta(hours=int(i), seconds=int(w))
                for i, w in zip(np.repeat(np.arange(contexts), items), np.repeat(wait, items), strict=True)
            ],
        }
    )


def materialised(rows: pl.DataFrame, storage: Storage, items: tuple[str, ...] = ("video_id", "price")) -> Labels:
    return materialise_labels(rows, LabelColumns(items), storage, buckets=2)


def labels_in_two(rows: pl.DataFrame) -> pl.DataFrame:
    """Two variables that are random by themselves and make the label together."""
    coin = np.random.default_rng(5).integers(0, 2, len(rows))
    return rows.with_columns(heads=pl.Series(coin), tails=pl.Series(coin ^ rows["label"].to_numpy()))


GIVEN_AWAY: dict[str, tuple[Maker, str]] = {
    "the label under another name": (lambda rows: rows.with_columns(bought="label"), r"bought \(a context variable\)"),
    "as a text": (
        lambda rows: rows.with_columns(bought=pl.when(pl.col("label") > 0).then(pl.lit("yes")).otherwise(pl.lit("no"))),
        r"bought \(a context variable\)",
    ),
    "as a boolean, negated": (
        lambda rows: rows.with_columns(kept=pl.col("label") == 0),
        r"kept \(a context variable\)",
    ),
    "a price that only buyers have": (
        lambda rows: rows.with_columns(paid=pl.when(pl.col("label") > 0).then("price").otherwise(0.0)),
        r"paid \(a context variable\)",
    ),
    "the time of the outcome": (lambda rows: rows.with_columns(decided_at="outcome_at"), "'decided_at' is the time of"),
    "the time of the outcome in seconds": (
        lambda rows: rows.with_columns(decided=pl.col("outcome_at").dt.epoch("s")),
        "'decided' is the time of the outcome in every row",
    ),
    "two variables together": (labels_in_two, "each of .* contexts has one label for all of its items"),
    "times that tell the labels apart": (
        lambda rows: rows.with_columns(time=pl.col("time") + pl.duration(microseconds="label")),
        "each of .* contexts has one label for all of its items",
    ),
}


@pytest.mark.parametrize("case", GIVEN_AWAY)
def test_what_gives_every_label_away_is_refused_with_a_way_out(storage: Storage, case: str) -> None:
    change, message = GIVEN_AWAY[case]
    labels = materialised(change(shown()), storage)
    with pytest.raises(ParadoxError, match=rf"{message}.* → .*context = \[…\]") as raised:
        check_labels(labels, storage)
    assert raised.value.final


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Float64, pl.String, pl.Boolean])
def test_an_item_variable_that_is_the_label_is_refused(storage: Storage, dtype: type[pl.DataType]) -> None:
    rows = shown().with_columns(bought=pl.col("label").cast(dtype))
    with pytest.raises(ParadoxError, match=r"bought \(an item variable\) .* → .*remove bought from items"):
        check_labels(materialised(rows, storage, ("video_id", "price", "bought")), storage)


def test_near_copies_are_reported(storage: Storage) -> None:
    rows = shown(contexts=300)
    noise = np.random.default_rng(7).random(len(rows)) < 0.06
    rows = rows.with_columns(nearly=pl.Series(np.where(noise, 1 - rows["label"].to_numpy(), rows["label"].to_numpy())))
    of_items = check_labels(materialised(rows, storage, ("video_id", "nearly")), storage)
    assert [each.feature for each in of_items.suspicious] == ["nearly (an item variable)"]
    of_contexts = check_labels(materialised(rows, storage, ("video_id", "price")), storage)
    assert [each.feature for each in of_contexts.suspicious] == ["nearly (a context variable)"]
    with pytest.raises(ParadoxError, match="reveals its labels: nearly"):
        check_labels(materialised(rows, storage), storage, LeakThresholds(policy="fail"))


@pytest.mark.parametrize("seed", range(4))
def test_honest_label_data_is_let_through_in_silence(storage: Storage, seed: int) -> None:
    rows = shown(seed=seed).with_columns(
        seen_at=pl.col("time") - pl.duration(days=1), text_id=pl.col("profile_id").cast(pl.String)
    )
    assert check_labels(materialised(rows, storage), storage) == LabelReport()
    assert check_labels(materialised(shown(contexts=4, seed=seed), storage), storage) == LabelReport()
    assert check_labels(materialised(shown(share=0.01, seed=seed), storage), storage) == LabelReport()


def test_what_may_be_right_but_cannot_be_ranked_is_said(storage: Storage) -> None:
    single = check_labels(materialised(shown(items=1), storage), storage)
    assert single.warnings == (
        "each of 120 contexts has one item only: no order of items is wrong, so ranking metrics are meaningless",
    )
    same = check_labels(materialised(shown(share=0.0), storage), storage)
    assert same.warnings == ("all labels are 0: there is nothing to learn",)
    few = shown(contexts=4, items=2).with_columns(label=pl.Series([0, 0, 1, 1, 0, 0, 1, 1]))
    [warning] = check_labels(materialised(few, storage), storage).warnings
    assert warning.startswith("each of 4 contexts has one label for all of its items: no order of items is wrong")
