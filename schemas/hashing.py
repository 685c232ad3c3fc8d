"""The project's hash: xxHash64 with Spark's seed, so that Spark SQL and Arrow put a key into the same bucket.

Hashes choose buckets, and replace text that encoders only compare. Keys are always compared by value as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from schemas.errors import DataKeyError

SPARK_SEED = 42  # of Spark SQL's xxhash64()
_MANTISSA = 53  # bits that a double holds
_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(p)
    for p in (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261)
)


def text_code(text: str) -> int:
    """Give the stable 64-bit code that compiled encoders see instead of a text; 0 is reserved for None.

    >>> text_code("US")
    -3707808605746212292
    """
    return int(np.uint64(xxhash.xxh64_intdigest(text.encode(), SPARK_SEED)).astype(np.int64))


def text_codes(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Give the code of each text of an array, 0 for null. Each distinct text is hashed once."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    encoded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    codes = np.array([text_code(text) for text in encoded.dictionary.to_pylist()] + [0], dtype=np.int64)
    indices = pc.fill_null(encoded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)
    result: NDArray[np.int64] = codes[indices]
    return result


def bucket_of(keys: pa.Array | pa.ChunkedArray, buckets: int) -> NDArray[np.int32]:
    """Give each key's bucket, the same as `bucket_sql` computes in Spark.

    keys: integers (any width) or strings; nulls get the bucket that Spark gives them
    buckets: a power of two, so that bucket i of n contains exactly the buckets i modulo n of any larger count
    """
    check_bucket_count(buckets)
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if pa.types.is_integer(keys.type) and keys.type != pa.uint64():
        hashes = _hash_int64(pc.fill_null(keys.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))
    elif pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type):
        hashes = text_codes(keys).view(np.uint64)
    else:
        raise _not_bucketable(str(keys.type))
    if keys.null_count:
        hashes = np.where(keys.is_null().to_numpy(zero_copy_only=False), np.uint64(SPARK_SEED), hashes)
    return (hashes & np.uint64(buckets - 1)).astype(np.int32)


def bucket_sql(column: str, type: pa.DataType, buckets: int) -> str:  # noqa: A002
    """Write `bucket_of` as a Spark SQL expression over a column.

    >>> bucket_sql("profile_id", pa.int32(), 16)
    'CAST(pmod(xxhash64(CAST(`profile_id` AS BIGINT)), 16) AS INT)'
    """
    check_bucket_count(buckets)
    if pa.types.is_integer(type) and type != pa.uint64():
        cast = "BIGINT"
    elif pa.types.is_string(type) or pa.types.is_large_string(type):
        cast = "STRING"
    else:
        raise _not_bucketable(str(type), column)
    quoted = column.replace("`", "``")
    return f"CAST(pmod(xxhash64(CAST(`{quoted}` AS {cast})), {buckets}) AS INT)"


def salted_share(keys: pa.Array | pa.ChunkedArray, salt: str) -> NDArray[np.float64]:
    """Hash each key to a number in [0, 1), evenly spread; other salts give independent numbers.

    keys: integers, booleans, dates and times, which are hashed as 64-bit integers, or texts; never null
    salt: any text. `salted_share_sql` computes the same numbers in Spark

    >>> salted_share(pa.array([7, 8, 7]), "ranking").round(3).tolist()
    [0.452, 0.237, 0.452]

    Raises DataKeyError for other types and for nulls.
    """
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if keys.null_count:
        raise DataKeyError.because(f"{keys.null_count:,} of {len(keys):,} keys are null", "leave those rows out")
    start = text_code(salt)
    if (numbers := _as_int64(keys)) is not None:
        hashes = _hash_int64(numbers, start)
    elif _is_text(keys.type):
        encoded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
        seed = start % (1 << 64)
        codes = [xxhash.xxh64_intdigest(text.encode(), seed) for text in encoded.dictionary.to_pylist()]
        hashes = np.array(codes, np.uint64)[encoded.indices.to_numpy(zero_copy_only=False)]
    else:
        raise DataKeyError.because(f"keys are {keys.type}, expected integers, texts, booleans, dates or times")
    return (hashes >> np.uint64(64 - _MANTISSA)).astype(np.float64) * 2.0**-_MANTISSA


def salted_share_sql(column: str, type: pa.DataType | None, salt: str) -> str:  # noqa: A002
    """Write `salted_share` as a Spark SQL expression over a column.

    type: None: integers or texts, whichever the column turns out to have

    >>> salted_share_sql("profile_id", pa.int32(), "ranking")
    "(shiftrightunsigned(xxhash64('ranking', CAST(`profile_id` AS BIGINT)), 11) * 1.1102230246251565E-16D)"
    """
    quoted = "`" + column.replace("`", "``") + "`"
    text = salt.replace("\\", "\\\\").replace("'", "\\'")
    if type is None:
        of_text, of_integer = (f"xxhash64('{text}', CAST({quoted} AS {kind}))" for kind in ("STRING", "BIGINT"))
        return _share_sql(f"CASE WHEN typeof({quoted}) = 'string' THEN {of_text} ELSE {of_integer} END")
    if pa.types.is_date(type):
        value = f"CAST(unix_date({quoted}) AS BIGINT)"
    elif pa.types.is_timestamp(type):
        value = f"unix_micros({quoted})"
    elif pa.types.is_integer(type) or pa.types.is_boolean(type):
        value = f"CAST({quoted} AS BIGINT)"
    elif _is_text(type):
        value = f"CAST({quoted} AS STRING)"
    else:
        raise DataKeyError.because(f"column '{column}' is {type}, expected an integer, text, boolean, date or time")
    return _share_sql(f"xxhash64('{text}', {value})")


def _share_sql(hashed: str) -> str:
    number = f"{2.0**-_MANTISSA!r}D".replace("e-", "E-")
    return f"(shiftrightunsigned({hashed}, {64 - _MANTISSA}) * {number})"


def check_bucket_count(buckets: int) -> None:
    """Raise DataKeyError unless the count is a power of two of at most 65,536."""
    if not 1 <= buckets <= 65_536 or buckets & (buckets - 1):
        raise DataKeyError.because(f"bucket count is {buckets}, expected a power of two from 1 to 65536")


def _as_int64(keys: pa.Array) -> NDArray[np.int64] | None:
    """Return keys that Spark hashes as 64-bit integers; None for other types."""
    type = keys.type  # noqa: A001  # the field's own name
    if pa.types.is_boolean(type) or pa.types.is_date32(type):
        keys = keys.cast(pa.int32())
    elif pa.types.is_date64(type):
        keys = keys.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_timestamp(type):
        keys = keys.cast(pa.timestamp("us", type.tz)).cast(pa.int64())
    elif not pa.types.is_integer(type):
        return None
    numbers: NDArray[np.int64] = keys.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _is_text(type: pa.DataType) -> bool:  # noqa: A002
    if pa.types.is_dictionary(type):
        return _is_text(type.value_type)
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _hash_int64(values: NDArray[Any], seed: int = SPARK_SEED) -> NDArray[np.uint64]:
    """XxHash64 of each value's eight bytes (Yann Collet, xxHash specification, inputs of 8 bytes)."""
    v = values.astype(np.int64, copy=False).view(np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64(seed % (1 << 64)) + _P5 + np.uint64(8)
        h = _rotate((_rotate(v * _P2, 31) * _P1) ^ start, 27) * _P1 + _P4
        h = (h ^ (h >> np.uint64(33))) * _P2
        h = (h ^ (h >> np.uint64(29))) * _P3
        mixed: NDArray[np.uint64] = h ^ (h >> np.uint64(32))
    return mixed


def _rotate(values: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
    return (values << np.uint64(by)) | (values >> np.uint64(64 - by))


def _not_bucketable(type: str, column: str = "the bucket variable") -> DataKeyError:  # noqa: A002
    return DataKeyError.because(f"{column} is {type}, expected an integer or a string", "bucket by another variable")
