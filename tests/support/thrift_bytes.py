"""Thrift's bytes by hand: what a client sends, whole or broken, and what comes back."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pyarrow as pa
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from prana_proxy.protocol.ipc import to_ipc
from schemas.generated import Prana
from schemas.generated.ttypes import FetchRequest


def framed(payload: bytes) -> bytes:
    return struct.pack("!i", len(payload)) + payload


def call(name: bytes, arguments: bytes) -> bytes:
    """A call as the binary protocol has it, its arguments in bytes."""
    return struct.pack("!Ii", 0x80010001, len(name)) + name + struct.pack("!i", 1) + arguments


def call_of(name: str, number: int = 1, **arguments: Any) -> bytes:
    """A call's frame."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocol(buffer)
    protocol.writeMessageBegin(name, TMessageType.CALL, number)
    getattr(Prana, f"{name}_args")(**arguments).write(protocol)
    return framed(buffer.getvalue())


def fetch_of(service: str, *profiles: int, budget_ms: int = 30_000, number: int = 1) -> bytes:
    contexts = to_ipc(pa.record_batch({"profile_id": pa.array(profiles, pa.int64())}))
    return call_of("fetch", number, request=FetchRequest(service, contexts, budget_ms))


def read_frame(connection: socket.socket) -> bytes:
    """The next frame; ConnectionResetError when the other side hangs up."""
    (size,) = struct.unpack("!i", _read(connection, 4))
    return _read(connection, size)


def answer_from(connection: socket.socket) -> tuple[int, Any]:
    """The next answer: the number of its call, and the result, or the exception of Thrift's own."""
    protocol = TBinaryProtocol(TMemoryBuffer(read_frame(connection)))
    name, kind, number = protocol.readMessageBegin()
    if kind == TMessageType.EXCEPTION:
        error = TApplicationException()
        error.read(protocol)
        return number, error
    result = getattr(Prana, f"{name}_result")()
    result.read(protocol)
    return number, result


def hung_up(connection: socket.socket) -> bool:
    """Wait for the other side to hang up; False when it says something instead."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data
