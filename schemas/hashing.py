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


def check_bucket_count(buckets: int) -> None:
    """Raise DataKeyError unless the count is a power of two of at most 65,536."""
    if not 1 <= buckets <= 65_536 or buckets & (buckets - 1):
        raise DataKeyError.because(f"bucket count is {buckets}, expected a power of two from 1 to 65536")


def _hash_int64(values: NDArray[Any]) -> NDArray[np.uint64]:
    """XxHash64 of each value's eight bytes (Yann Collet, xxHash specification, inputs of 8 bytes)."""
    v = values.astype(np.int64, copy=False).view(np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64(SPARK_SEED) + _P5 + np.uint64(8)
        h = _rotate((_rotate(v * _P2, 31) * _P1) ^ start, 27) * _P1 + _P4
        h = (h ^ (h >> np.uint64(33))) * _P2
        h = (h ^ (h >> np.uint64(29))) * _P3
        mixed: NDArray[np.uint64] = h ^ (h >> np.uint64(32))
    return mixed


def _rotate(values: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
    return (values << np.uint64(by)) | (values >> np.uint64(64 - by))


def _not_bucketable(type: str, column: str = "the bucket variable") -> DataKeyError:  # noqa: A002
    return DataKeyError.because(f"{column} is {type}, expected an integer or a string", "bucket by another variable")
