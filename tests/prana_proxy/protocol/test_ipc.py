from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_cases import stream
from prana_proxy.protocol.ipc import MOST_CONTEXTS, from_ipc, read_contexts, to_ipc
from schemas.errors import DataKeyError


def ids(*numbers: int | None) -> pa.RecordBatch:
    return pa.record_batch({"profile_id": pa.array(numbers, pa.int64())})


FLAT = pa.record_batch(
    {
        "a": pa.array([1, None], pa.int8()),
        "b": pa.array(["x", None]),
        "c": pa.array([True, None]),
        "d": pa.array([0, None], pa.timestamp("us", "UTC")),
        "e": pa.array([0, None], pa.date32()),
        "f": pa.array([b"", None], pa.binary()),
        "g": pa.array([0.5, None], pa.float32()),
        "h": pa.array(["x", None], pa.large_string()),
    }
)


def test_what_is_written_is_read() -> None:
    assert read_contexts(to_ipc(FLAT)).to_batches() == [FLAT]
    assert read_contexts(stream(ids(1), ids(), ids(2, None)))["profile_id"].to_pylist() == [1, 2, None]
    assert read_contexts(to_ipc(ids())).num_rows == 0
    nested = pa.record_batch({"value": pa.array([[{"a": 1}], []])})
    assert from_ipc(to_ipc(nested)).to_batches() == [nested]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "are not an Arrow IPC stream"),
        (b"no arrow", "are not an Arrow IPC stream"),
        (to_ipc(ids(1))[:-20], "are not an Arrow IPC stream"),
        (stream(ids(*range(1000)), compression="lz4"), "are not an Arrow IPC stream"),
        (stream(ids(*range(1000)), compression="zstd"), "are not an Arrow IPC stream"),
        (to_ipc(pa.record_batch({"a": pa.array(["x"]).dictionary_encode()})), "column 'a' is dictionary"),
        (to_ipc(pa.record_batch({"a": pa.nulls(10**9)})), "column 'a' is null"),
        (to_ipc(pa.record_batch({"a": pa.array(["x"], pa.string_view())})), "column 'a' is string_view"),
        (to_ipc(pa.record_batch({"a": [[1]]})), "column 'a' is list"),
        (to_ipc(pa.record_batch({"a": [{}]})), "column 'a' is struct"),
        (to_ipc(ids(*range(MOST_CONTEXTS + 1))), f"more than {MOST_CONTEXTS} contexts in a call"),
        (stream(*[ids(*range(MOST_CONTEXTS // 2))] * 3), f"more than {MOST_CONTEXTS} contexts in a call"),
    ],
)
def test_what_could_grow_beyond_its_bytes_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataKeyError, match=message):
        read_contexts(data)


def test_as_many_contexts_as_a_call_may_have_are_read() -> None:
    assert read_contexts(to_ipc(ids(*range(MOST_CONTEXTS)))).num_rows == MOST_CONTEXTS


def test_compressed_answers_are_refused_too() -> None:
    with pytest.raises(pa.ArrowInvalid, match="compressed"):
        from_ipc(stream(ids(*range(1000)), compression="zstd"))


def test_text_that_is_no_text_is_refused() -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xff"))
    with pytest.raises(DataKeyError, match="not an Arrow IPC stream"):
        read_contexts(to_ipc(pa.record_batch({"a": text})))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([to_ipc(FLAT), stream(ids(1, 2), ids(3)), stream(ids(*range(99)), compression="lz4")]), st.data()
)
def test_damage_is_refused_or_does_no_harm(good: bytes, data: Any) -> None:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        table = read_contexts(bytes(damaged[: data.draw(st.integers(0, len(good)))]))
    except DataKeyError:
        return
    assert table.nbytes <= len(good)
    table.validate(full=True)


def test_much_damage_does_no_harm() -> None:
    rng = random.Random(11)
    good = to_ipc(FLAT)
    for _ in range(2_000):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        with suppress(DataKeyError):
            assert read_contexts(bytes(damaged)).nbytes <= len(good)
