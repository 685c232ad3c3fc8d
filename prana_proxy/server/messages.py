"""Thrift messages: a call read from a frame, and the frame that answers it.

The generated processor is not used: it skips unknown fields in Python, which takes seconds for a frame crafted for
that, and it has no queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thrift.Thrift import TApplicationException, TException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from prana_proxy.protocol.thrift_protocol import protocol_factory
from prana_proxy.server.frames import MalformedError
from schemas.generated import Prana

_LONGEST_NAME = 100
# All exceptions that the protocol raises for malformed bytes.
_MALFORMED = (TException, TypeError, ValueError, EOFError, OSError, OverflowError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Message:
    """A call: its name, its sequence number, and its arguments, not read yet."""

    name: str
    number: int
    _protocol: Any

    @classmethod
    def read(cls, frame: bytes) -> Message:
        """Read a frame's head. Raises MalformedError."""
        protocol = protocol_factory().getProtocol(TMemoryBuffer(frame))
        protocol.strictRead = True  # with its version, as all current clients send it
        try:
            name, kind, number = protocol.readMessageBegin()
        except _MALFORMED as error:
            raise MalformedError("not a message of the binary protocol") from error
        if kind != TMessageType.CALL or len(name) > _LONGEST_NAME:
            raise MalformedError("not a call")
        return cls(name, number, protocol)

    def arguments(self) -> Any:
        """Read the arguments of one of `Prana`'s methods. Raises MalformedError."""
        arguments = getattr(Prana, f"{self.name}_args")()
        try:
            arguments.read(self._protocol)
        except _MALFORMED as error:
            raise MalformedError("arguments cannot be read") from error
        return arguments

    def answer(self, success: Any = None) -> bytes:
        """Write an answer as a frame."""
        result = getattr(Prana, f"{self.name}_result")()
        if success is not None:
            result.success = success
        return self._write(TMessageType.REPLY, result)

    def refusal(self, error: TException) -> bytes:
        """Write a declared exception of the method, or Thrift's TApplicationException, as a frame."""
        if isinstance(error, TApplicationException):
            return self._write(TMessageType.EXCEPTION, error)
        result = getattr(Prana, f"{self.name}_result")()
        spec = next(spec for spec in result.thrift_spec if spec and spec[3] and spec[3][0] is type(error))
        setattr(result, spec[2], error)
        return self._write(TMessageType.REPLY, result)

    def _write(self, kind: int, body: Any) -> bytes:
        buffer = TMemoryBuffer()
        protocol = protocol_factory().getProtocol(buffer)
        protocol.writeMessageBegin(self.name, kind, self.number)
        body.write(protocol)
        protocol.writeMessageEnd()
        frame: bytes = buffer.getvalue()
        return frame
