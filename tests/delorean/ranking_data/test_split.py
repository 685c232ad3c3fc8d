from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from delorean.ranking_data.feature_set_reader import read_feature_set
from delorean.ranking_data.ranking_data import RankingData
from delorean.ranking_data.split import Split
from schemas.errors import NaiveTimeError, TrainingError

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def data(feature_set: pa.Table) -> RankingData:
    return read_feature_set(feature_set, ["affinity"], ["video_id"], ["profile_id", "country"])


def test_a_split_by_time_tests_what_came_last(data: RankingData) -> None:
    parts = Split().divide(data)
    ends = [(min(times), max(times)) for times in (part.contexts["time"].to_pylist() for part in vars_of(parts))]
    assert ends[0][1] < ends[1][0] <= ends[1][1] < ends[2][0]
    assert [len(part) for part in vars_of(parts)] == pytest.approx([420, 90, 90], abs=2)
    assert parts.left_out == 0


def vars_of(parts: object) -> list[RankingData]:
    return [parts.train, parts.validation, parts.test]  # type: ignore[attr-defined]


def test_given_times_decide_and_belong_to_the_later_part(data: RankingData) -> None:
    cut, end = START + timedelta(minutes=100), START + timedelta(minutes=200)
    parts = Split(validation_from=cut, test_from=end).divide(data)
    assert [len(part) for part in vars_of(parts)] == [100, 100, 400]
    assert cut in parts.validation.contexts["time"].to_pylist()


def test_no_group_of_the_test_part_is_ever_seen_in_training(data: RankingData) -> None:
    parts = Split(shares=(0.5, 0.25, 0.25), group="profile_id").divide(data)
    groups = [set(part.contexts["profile_id"].to_pylist()) for part in vars_of(parts)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert max(parts.train.contexts["time"].to_pylist()) < min(parts.test.contexts["time"].to_pylist())
    assert sum(map(len, vars_of(parts))) + parts.left_out == len(data)
    assert parts.sizes["left_out"]["contexts"] == parts.left_out > 0


def test_a_split_by_group_alone_leaves_nothing_out_and_keeps_the_shares() -> None:
    contexts = pa.table({"profile_id": np.arange(20_000), "time": pa.array([START] * 20_000)})
    assigned = Split(by_time=False, group="profile_id").assign(contexts)
    assert np.bincount(assigned) / 20_000 == pytest.approx([0.7, 0.15, 0.15], abs=0.01)


def test_a_groups_part_depends_on_the_seed_and_its_value_only() -> None:
    names = pa.table({"query": ["a", "b", None, "ü"] * 50, "time": pa.array([START] * 200)})
    split = Split(by_time=False, group="query", seed=3)
    assert (split.assign(names) == np.tile(split.assign(names.slice(0, 4)), 50)).all()
    many = pa.table({"query": [str(i) for i in range(200)], "time": pa.array([START] * 200)})
    assert (split.assign(many) != Split(by_time=False, group="query", seed=4).assign(many)).any()


def test_an_empty_part_says_what_to_change(data: RankingData) -> None:
    late = START + timedelta(days=400)
    with pytest.raises(TrainingError, match="test part of the split is empty .*600 contexts.*other times"):
        Split(validation_from=START + timedelta(minutes=5), test_from=late).divide(data)
    with pytest.raises(TrainingError, match="another seed, or a group with more values than 'country'"):
        Split(by_time=False, group="country").divide(data)


def test_an_unknown_group_is_named(data: RankingData) -> None:
    with pytest.raises(TrainingError, match="'profil_id' → did you mean 'profile_id'"):
        Split(group="profil_id").divide(data)


@pytest.mark.parametrize("shares", [(0.7, 0.3, 0.0), (0.5, 0.1, 0.1)])
def test_shares_that_cannot_be_meant_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(TrainingError, match="expected three above 0"):
        Split(shares=shares)


def test_times_without_a_zone_or_out_of_order_are_refused() -> None:
    naive = datetime(2026, 1, 1)
    with pytest.raises(NaiveTimeError):
        Split(validation_from=naive, test_from=START)
    with pytest.raises(TrainingError, match="not before"):
        Split(validation_from=START, test_from=START)


def test_nobody_learns_from_an_outcome_that_was_observed_after_their_part_had_ended():
    start = datetime(2026, 5, 1, tzinfo=UTC)
    hours = [0, 1, 5, 5, 6, 9, 10]
    waits = [1, 4, 1, 5, 9, 1, 1]  # the bounds are at 5 h and at 7 h
    times = [start + timedelta(hours=h) for h in hours]
    contexts = pa.table(
        {
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "outcome_at": pa.array(
                [time + timedelta(hours=w) for time, w in zip(times, waits, strict=True)], pa.timestamp("us", "UTC")
            ),
        }
    )
    split = Split(validation_from=start + timedelta(hours=5), test_from=start + timedelta(hours=7))
    assert split.assign(contexts).tolist() == [0, -1, 1, -1, -1, 2, 2]
