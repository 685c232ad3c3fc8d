from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.capture.page_size import PageSize

MINUTE = timedelta(seconds=60)
MOST = st.integers(1, 5_000)
BUDGET = st.floats(0.01, 600).map(lambda seconds: timedelta(seconds=seconds))


def ask_at(pace: PageSize, rate: float) -> float:
    """Take a page from a service of so many contexts a second, and give how long it took."""
    seconds = pace.size / rate
    pace.adapt(seconds, pace.size)
    return seconds


@given(MOST, BUDGET, st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 5_000), st.integers(0, 5_000))))
def test_a_page_is_never_empty_and_never_more_than_the_most(
    most: int, budget: timedelta, pages: list[tuple[float, int, int]]
) -> None:
    pace = PageSize(most, budget)
    sizes = [pace.size]
    for seconds, contexts, rejected in pages:
        pace.adapt(seconds, contexts, rejected)
        sizes.append(pace.size)
    assert all(1 <= size <= most for size in sizes)
    assert all(later <= 2 * size for size, later in pairwise(sizes))


@given(MOST, BUDGET, st.floats(0.01, 1e6))
def test_at_a_constant_rate_the_page_settles_where_it_takes_a_small_part_of_the_budget(
    most: int, budget: timedelta, rate: float
) -> None:
    pace = PageSize(most, budget)
    for _ in range(20):
        ask_at(pace, rate)
    settled = pace.size
    seconds = ask_at(pace, rate)
    assert pace.size == settled
    aim = min(5.0, budget.total_seconds() / 6)
    assert seconds <= aim * (1 + 1e-9) or settled == 1
    assert (settled + 1) / rate > aim * (1 - 1e-9) or settled == most


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_a_service_that_slows_down_gets_a_page_of_its_new_rate_at_once(before: float, after: float) -> None:
    pace = PageSize(1_000, MINUTE)
    for _ in range(15):
        ask_at(pace, before)
    ask_at(pace, after)
    assert pace.size == 1 or pace.size / after <= 5.0 * (1 + 1e-9)


@pytest.mark.parametrize("calls_a_second", [50, 500])
def test_tasks_that_share_a_slow_service_wait_far_less_than_the_budget(calls_a_second: int) -> None:
    tasks = 16
    pace = PageSize(1_000, MINUTE)
    longest = max(ask_at(pace, calls_a_second / tasks) for _ in range(30))
    assert longest <= 6.0


def test_after_a_refusal_pages_are_small_again() -> None:
    pace = PageSize(1_000, MINUTE)
    for _ in range(8):
        ask_at(pace, 1e6)
    assert pace.size == 1_000
    pace.adapt(0.001, 1_000, rejected=1)
    assert pace.size == 16
