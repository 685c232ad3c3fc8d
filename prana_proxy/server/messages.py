"""Thrift's messages: what a frame asks for, and the frame that answers it.

The generated processor is not used: it reads what it does not know in Python, which takes seconds for a frame made for
that, and it knows nothing of lines to wait in.
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
# All that the protocol raises for malformed bytes.
_MALFORMED = (TException, TypeError, ValueError, EOFError, OSError, OverflowError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Message:
    """A call: its name, the number by which the client knows its answer, and its arguments, not read yet."""

    name: str
    number: int
    _protocol: Any

    @classmethod
    def read(cls, frame: bytes) -> Message:
        """Read what a frame begins with. Raises MalformedError."""
        protocol = protocol_factory().getProtocol(TMemoryBuffer(frame))
        protocol.strictRead = True  # with its version, as all clients of this century send it
        try:
            name, kind, number = protocol.readMessageBegin()
        except _MALFORMED as error:
            raise MalformedError("no message of the binary protocol") from error
        if kind != TMessageType.CALL or len(name) > _LONGEST_NAME:
            raise MalformedError("no call")
        return cls(name, number, protocol)

    def arguments(self) -> Any:
        """Read the arguments of a call that `Prana` has. Raises MalformedError."""
        arguments = getattr(Prana, f"{self.name}_args")()
        try:
            arguments.read(self._protocol)
        except _MALFORMED as error:
            raise MalformedError("arguments that cannot be read") from error
        return arguments

    def answer(self, success: Any = None) -> bytes:
        """Write an answer as a frame."""
        result = getattr(Prana, f"{self.name}_result")()
        if success is not None:
            result.success = success
        return self._write(TMessageType.REPLY, result)

    def refusal(self, error: TException) -> bytes:
        """Write one of the exceptions that the call may throw, or what Thrift itself has for all calls, as a frame."""
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
        written: bytes = buffer.getvalue()
        return written
