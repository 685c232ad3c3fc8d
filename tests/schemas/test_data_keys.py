from __future__ import annotations

import json

import pyarrow as pa
import pytest

from schemas.data_keys import (
    DataKey,
    Kind,
    by_name,
    context_variable,
    global_element,
    item,
    refuse_naive_times,
    service_element,
)
from schemas.errors import DataKeyError, NaiveTimeError

KEYS = [
    context_variable("profile_id", "int64"),
    item("video_id", pa.int64()),
    service_element("my_list", "list<struct<video_id: int64, added_at: timestamp[us, UTC]>>"),
    global_element("videos", "struct<video_id: int64, genres: list<string>>"),
]


def test_each_kind_has_its_maker() -> None:
    assert [key.kind for key in KEYS] == list(Kind)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key.kind))
def test_a_key_goes_through_json_unchanged(key: DataKey) -> None:
    assert DataKey.from_json(json.loads(json.dumps(key.to_json()))) == key


@pytest.mark.parametrize("name", ["", "my-list", "7th", "_hidden", "a b", "a.b"])
def test_a_name_that_encoders_cannot_read_is_refused(name: str) -> None:
    with pytest.raises(DataKeyError, match="is not a name an encoder can read → use letters"):
        context_variable(name, "int64")


@pytest.mark.parametrize(
    ("type", "place"),
    [
        ("timestamp[us]", "'seen'"),
        ("list<timestamp[us]>", "'seen.item'"),
        ("struct<a: list<struct<at: timestamp[us]>>>", "'seen.a.item.at'"),
    ],
)
def test_a_time_without_a_zone_is_refused_wherever_it_hides(type: str, place: str) -> None:  # noqa: A002
    with pytest.raises(NaiveTimeError, match="does not identify an instant → use timestamp") as raised:
        service_element("seen", type)
    assert place in str(raised.value)


def test_a_time_with_a_zone_is_fine() -> None:
    refuse_naive_times("seen", pa.list_(pa.timestamp("us", "UTC")))
    with pytest.raises(NaiveTimeError, match="seen"):
        refuse_naive_times("seen", pa.list_(pa.timestamp("us")))


@pytest.mark.parametrize("type", ["int64", "list<struct<video_id: int64>>", "struct<>"])
def test_a_global_element_is_one_row_s_struct(type: str) -> None:  # noqa: A002
    with pytest.raises(DataKeyError, match=r"global element 'videos' has type .*, expected a struct"):
        global_element("videos", type)


def test_one_name_means_one_key() -> None:
    assert by_name([*KEYS, KEYS[0]]) == {key.name: key for key in KEYS}
    with pytest.raises(DataKeyError, match="'profile_id' is declared twice: context int64 and item int64"):
        by_name([KEYS[0], item("profile_id", "int64")])
