"""Reads the bodies of requests with a deadline and in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from delorean.serving.limits import ServingLimits

_DROPPED = 16 << 20  # maximum of bytes that are read and dropped of a rejected body


class BodyError(Exception):
    """A body that was not read completely. status: of the HTTP response, after which the connection is closed."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class BodyReader:
    """Reads bodies; all bodies in use share one memory limit. For one event loop."""

    def __init__(self, limits: ServingLimits) -> None:
        self._limits, self._bytes = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body; it counts towards the memory limit until the block ends.

        Raises BodyError for a body that is too large, too slow, or exceeds the shared limit, ClientDisconnect for a
        caller that disconnects.
        """
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    await self._fill(body, request)
            except TimeoutError:
                problem = f"the body did not arrive within {self._limits.body_seconds:g} s, only {len(body)} bytes did"
                raise BodyError(408, problem) from None
            yield bytes(body)
        finally:
            self._bytes -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        announced = int(request.headers.get("content-length", 0))
        chunks = request.stream()
        error = self._too_large() if announced > self._limits.body else None
        while error is None:
            chunk = await anext(chunks, None)
            if chunk is None:
                return
            self._bytes += len(chunk)
            body += chunk
            error = self._problem(len(body))
        self._bytes -= len(body)
        body.clear()
        # First read and drop a moderate remainder: most callers do not read a response while they send.
        rest = 0 if announced > _DROPPED or "expect" in request.headers else _DROPPED
        while rest > 0 and (chunk := await anext(chunks, None)) is not None:
            rest -= len(chunk)
        raise error

    def _problem(self, size: int) -> BodyError | None:
        if size > self._limits.body:
            return self._too_large()
        if self._bytes > self._limits.bodies:
            problem = f"requests in progress hold more than {self._limits.bodies} bytes → retry later"
            return BodyError(503, problem)
        return None

    def _too_large(self) -> BodyError:
        return BodyError(413, f"the request is larger than {self._limits.body} bytes")
