"""Hashes of rows: the same on any machine, in any file and for any encoding of equal values.

Digests at rest are computed from them, so they must never change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from delorean.as_of.kernel import mix64
from encoders.columns import one_array
from schemas.errors import DataKeyError
from schemas.tables import TIME
from schemas.vectors import is_vector, vector_matrix

# The primes of xxHash64.
_P1, _P2, _P3, _P4 = (
    np.uint64(p) for p in (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579)
)
_NO_NULLS = np.zeros(0, dtype=np.bool_)


def initial_states(rows: int) -> NDArray[np.uint64]:
    """Return the two states of each row before any column is absorbed."""
    return np.tile(np.array([_P3, _P4], dtype=np.uint64), (rows, 1))


def row_hashes(rows: pa.Table, columns: Sequence[str], seed: int = 0) -> NDArray[np.uint64]:
    """Hash some columns of each row: evenly spread, and the same on any machine and in any file.

    columns: of the types that a context may have in `digest_rows`

    Raises DataKeyError for columns that are missing or nested.

    >>> hashes = row_hashes(pa.table({"profile_id": [7, 8, 7]}), ["profile_id"])
    >>> bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
    (True, False)
    """
    states = np.tile(np.array([_P3, np.uint64(seed)], dtype=np.uint64), (rows.num_rows, 1))
    for name in columns:
        absorb_column(states, name, rows)
    hashes: NDArray[np.uint64] = _combine_states(states)
    return hashes


def absorb_column(states: NDArray[np.uint64], name: str, rows: pa.Table) -> None:
    """Mix a column's values into the rows' states."""
    _mix(states, np.arange(len(states) + 1), name, _column(name, rows))


def absorb_lists(states: NDArray[np.uint64], name: str, rows: pa.Table) -> int:
    """Mix a column's lists into the rows' states, and count their values, which are numbers, texts or vectors."""
    lists = _column(name, rows)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise DataKeyError.because(f"column '{name}' is {lists.type}, expected a list with a value for each item")
    if lists.null_count:
        raise DataKeyError.because(f"column '{name}' is null in {lists.null_count} rows, expected a list in each")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.flatten()
    offsets = offsets - offsets[0]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        _mix_vectors(states, offsets, name, values)
    else:
        _mix(states, offsets, name, values)
    return len(values)


def _mix_vectors(states: NDArray[np.uint64], offsets: NDArray[np.int64], name: str, vectors: pa.Array) -> None:
    """Mix vectors of one length, as values of as many words. Raises DataKeyError for others."""
    if not is_vector(vectors.type) or vectors.flatten().null_count:
        raise DataKeyError.because(
            f"column '{name}' holds {vectors.type}, or null components", "give each item a vector of float32"
        )
    words = vector_matrix(name, vectors).view(np.uint32)
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    if present.all():
        present = _NO_NULLS
    else:
        words[~present] = 0
    flat = words.reshape(-1)
    flat.flags.writeable = False
    _absorb_words(states, offsets, flat, words.shape[1], present)


def _column(name: str, rows: pa.Table) -> pa.Array:
    if name not in rows.column_names:
        raise DataKeyError.unknown("column of the feature rows", name, rows.column_names)
    return one_array(rows[name])


def _mix(states: NDArray[np.uint64], offsets: NDArray[np.int64], name: str, values: pa.Array) -> None:
    values = _plain(name, values)
    large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    words = _text_words(values) if large else _number_words(values)
    present = _NO_NULLS
    if values.null_count:  # the buffer's content under a null is arbitrary
        present = values.is_valid().to_numpy(zero_copy_only=False)
        words = np.where(present[:, None], words, np.uint32(0))
    _absorb_words(states, offsets, words.reshape(-1), words.shape[1], present)


def _plain(name: str, values: pa.Array) -> pa.Array:
    """Cast to a type of whole 32-bit words, or to large text, so that equal values of similar types are equal."""
    type = values.type  # noqa: A001  # the field's own name
    if pa.types.is_dictionary(type):
        return _plain(name, values.cast(type.value_type))
    if pa.types.is_timestamp(type):
        return values.cast(TIME if type.tz else pa.timestamp("us"))
    if pa.types.is_boolean(type) or (pa.types.is_integer(type) and type.bit_width < 32):
        return values.cast(pa.int32())
    if pa.types.is_string(type) or pa.types.is_string_view(type) or pa.types.is_large_string(type):
        return values.cast(pa.large_string())
    if pa.types.is_binary(type) or pa.types.is_binary_view(type) or pa.types.is_large_binary(type):
        return values.cast(pa.large_binary())
    if (pa.types.is_primitive(type) and type.bit_width >= 32) or pa.types.is_decimal(type):
        return values
    raise DataKeyError.because(f"column '{name}' holds {type}", "use numbers, texts, booleans, dates or times")


def _number_words(values: pa.Array) -> NDArray[np.uint32]:
    """View each number as one, two or four words of 32 bits, without copying."""
    width = values.type.bit_width // 32
    data = values.buffers()[1]
    if not len(values) or data is None:
        return np.zeros((0, width), dtype=np.uint32)
    first = values.offset * width
    flat = np.frombuffer(data, np.uint32, count=len(values) * width, offset=first * 4)
    return flat.reshape(len(values), width)


@njit(cache=True, inline="always")
def _mix_word(a, b, word):  # type: ignore[no-untyped-def]  # compiled
    """Mix a word of 64 bits into both states."""
    word *= _P2
    word = ((word << np.uint64(31)) | (word >> np.uint64(33))) * _P1
    a ^= word
    b += word
    a = ((a << np.uint64(27)) | (a >> np.uint64(37))) * _P1 + _P4
    b = ((b << np.uint64(29)) | (b >> np.uint64(35))) * _P2 + _P3
    return a, b


def _text_words(values: pa.Array) -> NDArray[np.uint32]:
    """Hash each text's length and bytes to four words."""
    _, ends, data = values.buffers()
    if not len(values):
        return np.zeros((0, 4), dtype=np.uint32)
    offsets = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1]
    letters = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, dtype=np.uint8)
    states = np.tile(np.array([_P4, _P3], dtype=np.uint64), (len(values), 1))
    _absorb_words(states, offsets, letters.astype(np.uint32), 1, _NO_NULLS)
    return states.view(np.uint32)


# Typed in advance, so that a process compiles or loads it once, whatever the tables.
@njit("(uint64[:, ::1], int64[:], Array(uint32, 1, 'C', readonly=True), int64, boolean[:])", cache=True)
def _absorb_words(states, offsets, words, width, present):  # type: ignore[no-untyped-def]  # compiled
    """Mix the length and the values of each row's list into the row's two states.

    words: the values of all lists end to end, `width` words each, 0 where a value is null
    present: which values are not null; empty where none is

    Two words at a time, by the round of xxHash64 in one lane and a variation of it in the other. For a fixed word a
    round is a bijection of the state, so rows that differ in one value end in different states.
    """
    for row in range(len(states)):
        first, end = offsets[row], offsets[row + 1]
        a, b = _mix_word(states[row, 0], states[row, 1], np.uint64(end - first))
        at, stop = first * width, end * width
        while at < stop:
            word = np.uint64(words[at])
            if at + 1 < stop:
                word |= np.uint64(words[at + 1]) << np.uint64(32)
            a, b = _mix_word(a, b, word)
            at += 2
        if len(present):
            for i in range(first, end):
                if not present[i]:
                    a, b = _mix_word(a, b, np.uint64(i - first))
        states[row, 0], states[row, 1] = a, b


@njit("uint64[:](uint64[:, ::1])", cache=True)
def sum_states(states):  # type: ignore[no-untyped-def]  # compiled
    """Return both lanes' sums over all rows; each state is scattered first, since sums of similar states collide."""
    sums = np.zeros(2, dtype=np.uint64)
    for row in range(len(states)):
        for lane in range(2):
            sums[lane] += mix64(states[row, lane])
    return sums


@njit("uint64[:](uint64[:, ::1])", cache=True)
def _combine_states(states):  # type: ignore[no-untyped-def]  # compiled
    """Return one hash of both lanes for each row."""
    hashes = np.empty(len(states), dtype=np.uint64)
    for row in range(len(states)):
        hashes[row] = mix64(states[row, 0] ^ states[row, 1])
    return hashes
