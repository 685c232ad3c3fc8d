"""A client's connection to one proxy: TCP or TLS, Thrift frames, and authentication by token."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import time
from typing import Any

from thrift.transport.TTransport import CReadableTransport, TTransportBase, TTransportException

from prana_proxy.config.credentials import ProxyCredentials
from prana_proxy.protocol.thrift_protocol import FRAME_LENGTH, LARGEST_FRAME, protocol_factory
from schemas.errors import ConfigError
from schemas.generated.Prana import Client

_CONNECT_SECONDS = 3.0
_GRACE_SECONDS = 5.0  # that a proxy may take beyond the budget


def client_context(access: ProxyCredentials) -> ssl.SSLContext | None:
    """Load the TLS configuration; None: connections are plain. Raises ConfigError for invalid files."""
    if access.authority is None:
        if access.certificate is not None:
            problem = "a client's certificate without an authority"
            raise ConfigError.because(problem, "name the authority of the proxies' certificates too")
        return None
    try:
        context = ssl.create_default_context(cafile=access.authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError.because(f"authority {access.authority} contains no PEM certificates") from error
    if access.certificate is not None:
        try:
            context.load_cert_chain(access.certificate, access.key, password="")  # or OpenSSL would ask the terminal
        except (OSError, ssl.SSLError) as error:
            problem = f"{access.certificate} and {access.key} are not a PEM certificate and its key"
            raise ConfigError.because(problem, "use files without a password") from error
    return context


class ProxyConnection:
    """An open connection. Raises OSError when it cannot be opened, and Denied when the token is not valid.

    context: for TLS; deadline: on the system's monotonic clock
    """

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext | None, token: str | None, deadline: float
    ) -> None:
        left = max(deadline - time.monotonic(), 0.0)
        self._socket = socket.create_connection(address, min(_CONNECT_SECONDS, left + 0.1))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=address[0])
            self._frames = _FramedTransport(self._socket)
            self.client = Client(protocol_factory().getProtocol(self._frames))  # type: ignore[no-untyped-call]
            if token is not None:
                self.until(deadline).authenticate(token)
        except BaseException:  # also an interrupt: the socket must not stay open
            self.close()
            raise

    @property
    def answered(self) -> bool:
        """Whether the proxy has ever sent anything."""
        return self._frames.received > 0

    def until(self, deadline: float) -> Any:
        """Return the Thrift client for a call with a deadline, to which 5 s of grace are added."""
        self._frames.deadline = deadline + _GRACE_SECONDS
        return self.client

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError):
            self._socket.close()


class _FramedTransport(TTransportBase, CReadableTransport):  # type: ignore[misc]  # thrift has no types
    """Thrift's framed transport: each answer is received into a buffer of its size, before one deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self.deadline, self.received = 0.0, 0
        self._socket = connection
        self._out = io.BytesIO()
        self._in = io.BytesIO()

    def write(self, data: bytes) -> None:
        self._out.write(data)

    def flush(self) -> None:
        data = self._out.getvalue()
        self._out = io.BytesIO()
        self._in = io.BytesIO()
        self._set_timeout()
        self._socket.sendall(FRAME_LENGTH.pack(len(data)) + data)

    def read(self, size: int) -> bytes:
        if data := self._in.read(size):
            return data
        (length,) = FRAME_LENGTH.unpack(self._receive(FRAME_LENGTH.size))
        if not 0 < length <= LARGEST_FRAME:
            raise TTransportException(TTransportException.SIZE_LIMIT, f"Frame size {length} is not valid")
        self._in = io.BytesIO(self._receive(length))
        return self._in.read(size)

    @property
    def cstringio_buf(self) -> io.BytesIO:
        return self._in

    def cstringio_refill(self, *_: object) -> None:
        raise EOFError("the answer ends too early")

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            self._set_timeout()
            count = self._socket.recv_into(view[done:])
            if not count:
                raise TTransportException(TTransportException.END_OF_FILE, "it closed the connection")
            done += count
            self.received += count
        return data

    def _set_timeout(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._socket.settimeout(left)
