from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow_types import parse_type
from snapshotter.capture.value_profile import MeasureSums, sums_of

HISTORY = parse_type("list<struct<video_id: int64, minutes: float, tags: list<string>>>")
WATCHED = st.fixed_dictionaries(
    {
        "video_id": st.integers(0, 9),
        "minutes": st.none() | st.floats(0, 9, width=32),
        "tags": st.lists(st.none() | st.text("aé✓", max_size=3), max_size=3),
    }
)
HISTORIES = st.lists(st.lists(WATCHED, max_size=3), max_size=8)


def test_a_history_is_measured_in_all_its_parts() -> None:
    values = [
        [{"video_id": 1, "minutes": None, "tags": ["ab", None]}, {"video_id": 2, "minutes": 1.0, "tags": []}],
        [],
    ]
    assert sums_of(pa.array(values, HISTORY)).profile() == {
        "mean_bytes": (8 + 8 + 4 + 2) / 2,
        "mean_length(value[])": 1.0,
        "empty_share(value[])": 0.5,
        "null_share(value[].minutes)": 0.5,
        "mean_length(value[].tags[])": 1.0,
        "empty_share(value[].tags[])": 0.5,
        "null_share(value[].tags[])": 0.5,
    }


@pytest.mark.parametrize(
    ("type_", "values", "profile"),
    [
        ("int64", [1, 2], {"mean_bytes": 8.0}),
        ("bool", [True], {"mean_bytes": 1.0}),
        ("double", [1.0, None], {"mean_bytes": 4.0, "null_share(value)": 0.5}),
        ("timestamp[us, UTC]", [0], {"mean_bytes": 8.0}),
        ("struct<a: float>", [{"a": None}], {"mean_bytes": 0.0, "null_share(value.a)": 1.0}),
        ("list<int8>", [], {}),
    ],
)
def test_every_kind_of_value_has_a_profile(type_: str, values: list[Any], profile: dict[str, float]) -> None:
    assert sums_of(pa.array(values, parse_type(type_))).profile() == profile


@given(HISTORIES, st.data())
def test_sums_are_the_same_however_rows_are_cut(values: list[Any], data: st.DataObject) -> None:
    whole = pa.array(values, HISTORY)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = MeasureSums()
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        parts.add(sums_of(whole.slice(start, end - start)))
    assert parts == sums_of(whole)


@given(HISTORIES)
def test_means_are_those_of_plain_python(values: list[Any]) -> None:
    profile = sums_of(pa.array(values, HISTORY)).profile()
    watched = [row for value in values for row in value]
    texts = [tag for row in watched for tag in row["tags"]]
    if values:
        size = sum(8 + 4 * (row["minutes"] is not None) for row in watched) + sum(
            len((t or "").encode()) for t in texts
        )
        assert profile["mean_bytes"] == size / len(values)
        assert profile["empty_share(value[])"] == values.count([]) / len(values)
    if watched:
        assert profile["null_share(value[].minutes)"] == sum(row["minutes"] is None for row in watched) / len(watched)
    assert profile.get("null_share(value[].tags[])", 0.0) == (texts.count(None) / len(texts) if texts else 0.0)
