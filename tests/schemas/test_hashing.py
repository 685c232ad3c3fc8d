from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from schemas.errors import DataKeyError
from schemas.hashing import bucket_of, bucket_sql, text_code, text_codes

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
counts = st.sampled_from([1, 2, 16, 1024, 65_536])


def in_spark(spark: SparkSession, keys: pa.Array, buckets: int) -> list[int]:
    frame = spark.createDataFrame(pa.table({"a `key`": keys, "row": range(len(keys))})).coalesce(1)
    found = frame.selectExpr("row", f"{bucket_sql('a `key`', keys.type, buckets)} AS bucket").collect()
    return [row["bucket"] for row in sorted(found)]


@pytest.mark.parametrize("name", INTEGERS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_spark_puts_integers_into_the_same_buckets(spark: SparkSession, name: str, data: st.DataObject) -> None:
    most = 2 ** (INTEGERS[name] - 1)
    values = data.draw(st.lists(st.none() | st.integers(-most, most - 1), max_size=50))
    keys = pa.array([-most, -1, 0, 1, most - 1, None, *values], pa.type_for_alias(name))
    buckets = data.draw(counts)
    assert bucket_of(keys, buckets).tolist() == in_spark(spark, keys, buckets)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.none() | st.text(max_size=80), max_size=50), counts)
def test_spark_puts_texts_into_the_same_buckets(spark: SparkSession, values: list[str | None], buckets: int) -> None:
    keys = pa.array(["", "naïve", "🎬" * 20, "\0", " ", None, *values], pa.string())
    assert bucket_of(keys, buckets).tolist() == in_spark(spark, keys, buckets)


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(0, 16), st.integers(0, 16))
def test_a_bucket_is_made_of_the_buckets_of_a_larger_count(values: list[int | None], small: int, more: int) -> None:
    few, many = 2**small, 2 ** min(16, small + more)
    keys = pa.array(values, pa.int64())
    assert (bucket_of(keys, many) % few).tolist() == bucket_of(keys, few).tolist()


@given(st.lists(st.none() | st.integers(-128, 127)), st.booleans())
def test_a_key_s_bucket_does_not_depend_on_its_width_or_its_chunks(values: list[int | None], chunked: bool) -> None:
    found = {
        tuple(bucket_of(pa.chunked_array([keys[:1], keys[1:]]) if chunked else keys, 64))
        for keys in (pa.array(values, pa.type_for_alias(name)) for name in INTEGERS)
    }
    assert len(found) == 1


@given(st.lists(st.none() | st.text()))
def test_the_codes_of_texts_are_those_of_each_text(values: list[str | None]) -> None:
    expected = [0 if value is None else text_code(value) for value in values]
    for keys in (pa.array(values, pa.string()), pa.array(values, pa.large_string())):
        assert text_codes(keys).tolist() == expected
        assert text_codes(keys.dictionary_encode()).tolist() == expected
    assert text_codes(pa.chunked_array([pa.array(values, pa.string())] * 2)).tolist() == expected * 2


def test_keys_spread_evenly() -> None:
    sizes = np.bincount(bucket_of(pa.array(range(64_000)), 64), minlength=64)
    assert 800 < sizes.min() <= sizes.max() < 1200


@pytest.mark.parametrize("buckets", [0, -2, 3, 6, 131_072])
def test_a_bucket_count_is_a_power_of_two(buckets: int) -> None:
    with pytest.raises(DataKeyError, match=f"bucket count is {buckets}, expected a power of two"):
        bucket_of(pa.array([1]), buckets)
    with pytest.raises(DataKeyError, match="expected a power of two"):
        bucket_sql("profile_id", pa.int64(), buckets)


@pytest.mark.parametrize("type", [pa.float64(), pa.uint64(), pa.list_(pa.int64()), pa.timestamp("us", "UTC")])
def test_only_integers_and_texts_make_buckets(type: Any) -> None:  # noqa: A002
    with pytest.raises(DataKeyError, match="expected an integer or a string"):
        bucket_of(pa.array([], type), 4)
    with pytest.raises(DataKeyError, match="profile_id is .*, expected an integer or a string"):
        bucket_sql("profile_id", type, 4)
