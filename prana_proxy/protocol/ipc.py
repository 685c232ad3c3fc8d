"""Contexts and answers as Arrow IPC streams, read without trusting the sender.

Arrow checks that a stream lies within its bytes, but not how large it becomes: a compressed buffer, a dictionary, a
view or a null column can expand to terabytes. So streams are read message by message and these are rejected.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from schemas.errors import DataKeyError

MOST_CONTEXTS = 50_000  # in one call
_LARGEST_METADATA = 1 << 20  # of one message
_COMPRESSION = 3  # the field's number in the flatbuffer of a record batch
_FLAT = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_date, pa.types.is_timestamp),
)


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """Write a batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """Read an Arrow IPC stream and check every buffer of it. Raises pyarrow.ArrowInvalid or OSError."""
    schema, batches = _open(data)
    return pa.Table.from_batches(batches, schema)


def read_contexts(data: bytes) -> pa.Table:
    """Read contexts: columns of flat types, at most `MOST_CONTEXTS` rows. Raises DataKeyError."""
    try:
        schema, batches = _open(data)
        for field in schema:
            name, kind = str(field.name), str(field.type)  # which may not be valid text
            if not any(is_type(field.type) for is_type in _FLAT):
                raise DataKeyError.because(f"contexts: column '{name[:80]}' is {kind[:80]}", "send the key alone")
        read, rows = [], 0
        for batch in batches:
            rows += batch.num_rows
            if rows > MOST_CONTEXTS:
                raise DataKeyError.because(f"more than {MOST_CONTEXTS} contexts in a call", "send several calls")
            read.append(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataKeyError.because("contexts are not an Arrow IPC stream") from error
    return pa.Table.from_batches(read, schema)


def _open(data: bytes) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    messages = _messages(data)
    first = next(messages, None)
    if first is None or first.type != "schema":
        raise pa.ArrowInvalid("the first message is not a schema")
    schema = pa.ipc.read_schema(first)
    return schema, _batches(messages, schema)


def _batches(messages: Iterator[pa.Message], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for message in messages:
        if message.type != "record batch" or _compressed(message.metadata.to_pybytes()):
            raise pa.ArrowInvalid(f"a {message.type}, compressed or out of place")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        yield batch


def _messages(data: bytes) -> Iterator[pa.Message]:
    for message in pa.ipc.MessageReader.open_stream(data):
        if message.metadata.size > _LARGEST_METADATA:
            raise pa.ArrowInvalid("a message's metadata is too large")
        yield message


def _compressed(metadata: bytes) -> bool:
    """Whether a record batch has compressed buffers, which pyarrow can neither report nor reject."""
    try:
        (message,) = struct.unpack_from("<I", metadata)
        header = message + _slot(metadata, message, 2)
        batch = header + struct.unpack_from("<I", metadata, header)[0]
        return _slot(metadata, batch, _COMPRESSION) != 0
    except struct.error as error:
        raise pa.ArrowInvalid("metadata points outside itself") from error


def _slot(data: bytes, table: int, number: int) -> int:
    """Return the offset of a field in a flatbuffer's table; 0 if it is missing."""
    slots = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, slots)
    at = 4 + 2 * number
    return int(struct.unpack_from("<H", data, slots + at)[0]) if at < size else 0
