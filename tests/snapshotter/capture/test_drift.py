from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator
from numpy.typing import NDArray

from schemas.data_keys import context_variable, service_element
from schemas.services import Service, Status
from snapshotter.capture.drift import DriftAlert, drift_alerts, last_profiles, recent_drift
from snapshotter.index import SnapshotIndex
from snapshotter.records import DataFile, ServiceSnapshot, SnapshotRun

Series = Callable[[Generator, int], NDArray[np.float64]]
STEADY: dict[str, Series] = {
    "noise": lambda random, n: random.normal(10_000, 300, n),
    "heavy tails": lambda random, n: 10_000 + 200 * random.standard_t(4, n),
    "growing": lambda random, n: 10_000 + 500 * np.arange(n) + random.normal(0, 300, n),
    "growing, hardly noisy": lambda random, n: 10_000 + 500 * np.arange(n) + random.normal(0, 20, n),
    "shrinking": lambda random, n: 40_000 - 500 * np.arange(n) + random.normal(0, 300, n),
}


HISTORY = Service("history", service_element("history", "int64"), (context_variable("profile_id", "int64"),))
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def publish(index: SnapshotIndex, run_id: str, rows: int) -> None:
    files = (DataFile("snapshots/a.parquet", rows, 1, "0f"),) if rows else ()
    times = (NOON, NOON) if rows else (None, None)
    profile = {"rows": float(rows), "confidence": min(rows, 1.0)}
    taken = ServiceSnapshot(run_id, HISTORY, None, 1, {Status.OK: rows}, *times, files, {}, profile)
    index.publish_run(SnapshotRun(run_id, "contexts", NOON, (taken,)))


def test_published_runs_are_compared_with_those_before_them_and_outages_are_no_measure(index: SnapshotIndex) -> None:
    for number, rows in enumerate([100, 101, 0, 0, 99, 100, 102, 50, 100]):
        publish(index, f"r{number}", rows)
    found = [(run.run_id, [alert.measure for alert in alerts]) for run, _, alerts in recent_drift(index, "history")]
    assert found == [(f"r{number}", ["rows"] if number == 7 else []) for number in reversed(range(9))]
    assert [profile["rows"] for profile in last_profiles(index, "history")] == [100, 101, 99, 100, 102, 50, 100]
    publish(index, "r9", 0)
    assert [alert.measure for alert in recent_drift(index, "history")[0][2]] == ["rows", "confidence"]
    assert recent_drift(index, "popular") == []


def test_of_a_long_history_only_what_tells_what_is_usual_is_read(index: SnapshotIndex) -> None:
    for number in range(150):
        publish(index, f"r{number:03d}", 0 if number % 7 == 3 else 50 if number == 145 else 100 + number % 3)
    whole = recent_drift(index, "history")
    with closing(sqlite3.connect(index.uri.removeprefix("sqlite://"))) as connection:
        connection.execute("UPDATE snapshots SET record = '{' WHERE run_id < 'r080'")
        connection.commit()
    for most in (1, 4, 10):
        assert recent_drift(index, "history", most) == whole[:most]
    assert index.unreadable() == ()


def measured(
    measure: str, values: NDArray[np.float64] | list[float]
) -> tuple[list[dict[str, float]], dict[str, float]]:
    *earlier, new = ({measure: float(value)} for value in values)
    return earlier, new


def share_of_alarms(series: Series, runs: int, times: int = 1_000, factor: float = 1.0) -> float:
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(times):
        earlier, new = measured("rows", series(random, runs + 1))
        alarms += bool(drift_alerts(earlier, {"rows": new["rows"] * factor}))
    return alarms / times


@pytest.mark.parametrize("runs", [5, 7, 10, 20])
@pytest.mark.parametrize("series", STEADY)
def test_false_alarms_are_rare(series: str, runs: int) -> None:
    assert share_of_alarms(STEADY[series], runs) <= 0.02


@pytest.mark.parametrize("runs", [7, 10, 20])
@pytest.mark.parametrize("series", STEADY)
def test_half_the_rows_are_found_missing(series: str, runs: int) -> None:
    assert share_of_alarms(STEADY[series], runs, times=200, factor=0.5) >= 0.98


def test_what_only_a_trend_explains_is_no_alarm_and_its_end_is_one() -> None:
    grown = [1_000.0 * (10 + run) for run in range(10)]
    assert drift_alerts(*measured("rows", [*grown, 20_000.0])) == []
    [alert] = drift_alerts(*measured("rows", [*grown, 15_000.0]))
    assert (alert.low, alert.high, alert.value, alert.runs) == (19_000.0, 21_000.0, 15_000.0, 10)
    assert str(alert) == "rows is 15,000, expected 19,000 to 21,000 after the last 10 runs"


@pytest.mark.parametrize(
    ("measure", "usual", "fine", "wrong"),
    [
        ("confidence", 1.0, 0.985, 0.95),
        ("null_share(value[].minutes)", 0.0, 0.015, 0.05),
        ("empty_share(value[])", 0.3, 0.31, 0.5),
        ("mean_bytes", 640.0, 660.0, 320.0),
        ("mean_length(value[])", 20.0, 20.5, 0.0),
        ("rows", 0.0, 0.0, 100.0),
    ],
)
def test_constant_histories_allow_a_hairs_breadth_and_no_more(
    measure: str, usual: float, fine: float, wrong: float
) -> None:
    assert drift_alerts(*measured(measure, [usual] * 6 + [fine])) == []
    [alert] = drift_alerts(*measured(measure, [usual] * 6 + [wrong]))
    assert alert.measure == measure


def test_more_confidence_than_expected_is_no_alarm() -> None:
    assert drift_alerts(*measured("confidence", [0.6] * 8 + [1.0])) == []
    assert drift_alerts(*measured("confidence", [0.6] * 8 + [0.5])) != []


@given(st.lists(st.floats(0, 1), max_size=4), st.floats(0, 1))
def test_fewer_than_five_runs_are_no_ground_for_a_judgement(earlier: list[float], new: float) -> None:
    assert drift_alerts(*measured("confidence", [*earlier, new])) == []


def test_runs_that_did_not_measure_something_do_not_count_for_it() -> None:
    earlier = [{"rows": 10.0}] * 5 + [{}] * 3
    assert drift_alerts(earlier, {"rows": 10.0, "mean_bytes": 1.0}) == []
    assert drift_alerts(earlier, {"rows": 100.0}) != []


def test_only_the_last_twenty_runs_count() -> None:
    assert drift_alerts(*measured("rows", [1.0] * 50 + [1_000.0] * 20 + [1_000.0])) == []


@given(st.integers(5, 20), st.integers(0, 19), st.floats(0, 1e9))
def test_one_outage_in_the_past_hides_nothing(runs: int, outage: int, found: float) -> None:
    rows = [10_000.0] * runs
    rows[outage % runs] = found
    assert drift_alerts(*measured("rows", [*rows, 10_000.0])) == []
    assert drift_alerts(*measured("rows", [*rows, 5_000.0])) != []


@given(
    st.lists(st.floats(0, 1e9), min_size=5, max_size=25),
    st.floats(0, 1e9),
    st.sampled_from(["rows", "confidence", "null_share(x)"]),
)
def test_a_range_is_a_range_and_what_lies_in_it_is_no_alert(earlier: list[float], found: float, measure: str) -> None:
    share = measure != "rows"
    values = [value / 1e9 if share else value for value in [*earlier, found]]
    for alert in drift_alerts(*measured(measure, values)):
        assert isinstance(alert, DriftAlert)
        assert 0 <= alert.low <= alert.high
        assert not share or alert.high <= 1
        assert not alert.low <= alert.value <= alert.high
