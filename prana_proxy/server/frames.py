"""One client's connection as Thrift frames, with bounded buffering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from prana_proxy.protocol.thrift_protocol import FRAME_LENGTH, LARGEST_FRAME

_FRAME_SECONDS = 30.0  # for a frame that has begun to arrive, and for a client to read an answer
_MOST_AHEAD = 1 << 20  # bytes buffered behind the call in progress
_LARGE = 1 << 20
_LARGE_AT_ONCE = 16  # frames larger than that, read or answered at a time


class MalformedError(Exception):
    """A client sent something that is not a Thrift call; its connection ends."""


class FrameMemory:
    """Bounds the large frames that one process holds at a time, and so its memory. Belongs to one event loop."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    @asynccontextmanager
    async def hold(self, frames: FrameConnection, size: int) -> AsyncIterator[None]:
        """Reserve memory for a frame. Raises TimeoutError when none becomes free for long."""
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
    """A connection. lost: done once the client has hung up, also while a call of it is in progress."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needed = 0  # bytes that `_until` waits for
        self._arrived: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    async def next_size(self, idle_seconds: float) -> int:
        """Wait for the next frame to begin, and return its size.

        Raises TimeoutError or ConnectionResetError when none comes, and MalformedError when its size is not valid.
        """
        async with asyncio.timeout(idle_seconds):
            await self._until(1)
        async with asyncio.timeout(_FRAME_SECONDS):
            await self._until(FRAME_LENGTH.size)
        (size,) = FRAME_LENGTH.unpack_from(self._buffer)
        if not 0 < size <= LARGEST_FRAME:
            raise MalformedError("not a frame, or one that is too large")
        del self._buffer[: FRAME_LENGTH.size]
        return int(size)

    async def read(self, size: int) -> bytes:
        """Read a frame of the size that `next_size` returned."""
        async with asyncio.timeout(_FRAME_SECONDS):
            await self._until(size)
        frame = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return frame

    async def send(self, frame: bytes) -> None:
        """Send a frame, and wait until the client has read most of it."""
        assert self._transport is not None
        self._transport.writelines((FRAME_LENGTH.pack(len(frame)), frame))
        if self._drained is not None:
            async with asyncio.timeout(_FRAME_SECONDS):
                await asyncio.wait((self._drained, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            raise ConnectionResetError

    def hold_back(self, back: bool) -> None:
        """Stop reading what the client sends, or go on."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if back else self._transport.resume_reading)()

    async def close(self) -> None:
        """Close the connection once everything is sent, or cannot be sent."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            await asyncio.wait((self._closed,), timeout=_FRAME_SECONDS)
        finally:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Buffer received bytes."""
        self._buffer += data
        if self._arrived is not None:
            if len(self._buffer) >= self._needed and not self._arrived.done():
                self._arrived.set_result(None)
        elif self._transport is not None and len(self._buffer) > _MOST_AHEAD:
            # Calls are answered one by one, and pausing reads would hide that the client hangs up.
            self._transport.abort()

    def eof_received(self) -> bool:
        """Treat the end of the client's data as a hang-up: no Thrift client closes only one direction."""
        self._end()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """Wake everything that waits for the connection."""
        self._end()
        if not self._closed.done():
            self._closed.set_result(None)
        self.resume_writing()

    def pause_writing(self) -> None:
        """Record that the client reads its answer slowly."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Record that it has read most of it."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def _until(self, size: int) -> None:
        while len(self._buffer) < size:
            if self.lost.done():
                raise ConnectionResetError
            self._needed, self._arrived = size, self._loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
