from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from schemas.arrow_types import parse_type
from schemas.data_keys import context_variable, service_element
from schemas.errors import DataKeyError, NaiveTimeError
from schemas.services import Service
from schemas.tables import (
    TIME,
    answers_schema,
    contexts_schema,
    refuse_hidden_nulls,
    require_columns,
    snapshot_schema,
)

PROFILE, COUNTRY = context_variable("profile_id", "int64"), context_variable("country", "string")
SERVICE = Service("lists", service_element("my_list", "list<int64>"), (PROFILE, COUNTRY))


def test_what_is_asked_answered_and_kept_of_a_service() -> None:
    value = ("value", pa.list_(pa.int64()))
    key = [("profile_id", pa.int64()), ("country", pa.string())]
    assert contexts_schema(SERVICE.key) == pa.schema(key)
    answers = [("status", pa.string()), ("captured_at", TIME), ("reason", pa.string()), value]
    assert answers_schema(SERVICE) == pa.schema(answers)
    assert snapshot_schema(SERVICE) == pa.schema([*key, ("captured_at", TIME), value])
    assert pa.timestamp("us", "UTC") == TIME


def test_columns_of_the_right_type_are_enough_in_any_order() -> None:
    table = pa.table({"country": ["US"], "more": [1], "profile_id": [1]})
    require_columns("contexts", table, SERVICE.key)
    require_columns("contexts", table.to_batches()[0], SERVICE.key)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"profile_i": [1]}, "unknown column in contexts 'profile_id' → did you mean 'profile_i'?"),
        ({"profile_id": ["1"]}, "contexts: column 'profile_id' is string, expected int64"),
        ({"profile_id": pa.array([1], pa.int32())}, "contexts: column 'profile_id' is int32, expected int64"),
    ],
)
def test_a_missing_or_mistyped_column_is_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataKeyError) as raised:
        require_columns("contexts", pa.table(columns), [PROFILE])
    assert str(raised.value).startswith(message)


def test_a_time_without_a_zone_is_told_as_such() -> None:
    seen = context_variable("seen_at", "timestamp[us, UTC]")
    with pytest.raises(NaiveTimeError, match=r"'labels\.seen_at' is timestamp\[us\]"):
        require_columns("labels", pa.table({"seen_at": pa.array([0], pa.timestamp("us"))}), [seen])


@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("int64", [None, 1]),
        ("list<int64>", [None, [], [1]]),
        ("list<float>", [[None, 1.0]]),
        ("list<string>", [[None, "x"]]),
        ("list<large_string>", [[None, "x"]]),
        ("struct<a: int64, b: float, c: string>", [None, {"a": 1, "b": None, "c": None}]),
        ("list<struct<a: int64, t: timestamp[us, UTC]>>", [None, [], [{"a": 1, "t": 0}]]),
    ],
)
def test_absent_values_and_nulls_that_encoders_can_read_are_fine(type: str, values: list[Any]) -> None:  # noqa: A002
    refuse_hidden_nulls("state", pa.array(values, parse_type(type)))


@pytest.mark.parametrize(
    ("type", "values", "place"),
    [
        ("list<int64>", [[1], [2, None]], "'state[]' is null at position 2"),
        ("struct<a: int64>", [None, {"a": 1}, {"a": None}], "'state.a' is null at position 1"),
        ("list<struct<a: bool>>", [[{"a": True}, {"a": None}]], "'state[].a' is null at position 1"),
        ("list<struct<a: int64>>", [[None]], "'state[]' is null at position 0"),
        ("list<list<float>>", [[[1.0], None]], "'state[]' is null at position 1"),
        ("list<struct<g: list<date32>>>", [[{"g": [None]}]], "'state[].g[]' is null at position 0"),
    ],
)
def test_any_other_null_within_a_value_is_found(type: str, values: list[Any], place: str) -> None:  # noqa: A002
    array = pa.array([None, *values, None], parse_type(type))
    with pytest.raises(DataKeyError) as raised:
        refuse_hidden_nulls("state", array)
    assert str(raised.value).startswith(place)


def test_nulls_in_large_lists_are_refused_too() -> None:
    with pytest.raises(DataKeyError, match=r"'state\[\]' is null at position 1"):
        refuse_hidden_nulls("state", pa.array([[1, None]], pa.large_list(pa.int64())))


def test_what_a_slice_leaves_out_is_not_judged() -> None:
    array = pa.array([[None], [1], [None]], pa.list_(pa.int64()))
    refuse_hidden_nulls("state", array[1:2])
    with pytest.raises(DataKeyError, match="is null at position"):
        refuse_hidden_nulls("state", array)
