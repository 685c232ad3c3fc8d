"""One client's connection as its frames: what comes is cut into them, and nobody can make us hold much."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from prana_proxy.protocol.thrift_protocol import LARGEST_FRAME

_FRAME_SECONDS = 30.0  # for a frame that has begun to arrive, and for a client to take an answer
_MOST_AHEAD = 1 << 20  # bytes that may wait behind the call that is being answered
_LARGE = 1 << 20
_LARGE_AT_ONCE = 16  # frames larger than that which are read or answered at a time
_LENGTH = struct.Struct("!i")


class MalformedError(Exception):
    """What a client sent is no call of ours; its connection ends."""


class FrameMemory:
    """The large frames that one process holds at a time: they bound its memory. Belongs to an event loop."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    @asynccontextmanager
    async def hold(self, frames: FrameConnection, size: int) -> AsyncIterator[None]:
        """Hold room for a frame. Raises TimeoutError when there is none for long."""
        if size <= _LARGE:
            yield
            return
        frames.hold_back(True)
        async with asyncio.timeout(_FRAME_SECONDS):
            await self._large.acquire()
        try:
            frames.hold_back(False)
            yield
        finally:
            self._large.release()


class FrameConnection(asyncio.Protocol):
    """A connection. lost: is done once the client has hung up, whatever is being done for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._wanted = 0  # bytes that somebody waits for
        self._came: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    async def next_size(self, patience: float) -> int:
        """Wait for the next frame to begin, and say how large it is.

        Raises TimeoutError, ConnectionResetError when there is none, and MalformedError when it is none of ours.
        """
        async with asyncio.timeout(patience):
            await self._until(1)
        async with asyncio.timeout(_FRAME_SECONDS):
            await self._until(_LENGTH.size)
        (size,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < size <= LARGEST_FRAME:
            raise MalformedError("no frame, or one that is too large")
        del self._buffer[: _LENGTH.size]
        return int(size)

    async def read(self, size: int) -> bytes:
        """Read a frame of the size that was told."""
        async with asyncio.timeout(_FRAME_SECONDS):
            await self._until(size)
        frame = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return frame

    async def send(self, frame: bytes) -> None:
        """Send a frame, and wait until the client has taken most of it."""
        assert self._transport is not None
        self._transport.writelines((_LENGTH.pack(len(frame)), frame))
        if self._drained is not None:
            async with asyncio.timeout(_FRAME_SECONDS):
                await asyncio.wait((self._drained, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            raise ConnectionResetError

    def hold_back(self, back: bool) -> None:
        """Let the client wait with what it sends, or not."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if back else self._transport.resume_reading)()

    async def close(self) -> None:
        """Close the connection once what was sent has gone, or does not go."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            await asyncio.wait((self._closed,), timeout=_FRAME_SECONDS)
        finally:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data
        if self._came is not None:
            if len(self._buffer) >= self._wanted and not self._came.done():
                self._came.set_result(None)
        elif self._transport is not None and len(self._buffer) > _MOST_AHEAD:
            # Calls are answered one by one, and to stop reading would hide that the client hangs up.
            self._transport.abort()

    def eof_received(self) -> bool:
        """Take the client's end for a hang-up: no Thrift client closes one direction only."""
        self._end()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """End."""
        self._end()
        if not self._closed.done():
            self._closed.set_result(None)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Note that the client takes its answer slowly."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Note that it has taken most of it."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    async def _until(self, size: int) -> None:
        while len(self._buffer) < size:
            if self.lost.done():
                raise ConnectionResetError
            self._wanted, self._came = size, self._loop.create_future()
            try:
                await self._came
            finally:
                self._came = None
