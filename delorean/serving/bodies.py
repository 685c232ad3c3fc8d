"""Bodies of requests, read against a deadline and in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from delorean.serving.limits import ServingLimits

_DROPPED = 16 << 20  # most bytes that are read of a body that is refused


class BodyError(Exception):
    """A body that is not read to its end. status: of the HTTP answer; the connection is closed after it."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class Bodies:
    """Reads bodies; all that are in use at a time share one bound of memory. For one event loop."""

    def __init__(self, limits: ServingLimits) -> None:
        self._limits, self._bytes = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body; its memory counts until the block ends.

        Raises BodyError for one that is too large, too slow, or too much beside the others, ClientDisconnect for a
        caller that leaves.
        """
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    await self._fill(body, request)
            except TimeoutError:
                problem = f"the body has not arrived within {self._limits.body_seconds:g} s, {len(body)} bytes have"
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
        # A moderate rest is read and dropped first: most callers read no answer while they send.
        rest = 0 if announced > _DROPPED or "expect" in request.headers else _DROPPED
        while rest > 0 and (chunk := await anext(chunks, None)) is not None:
            rest -= len(chunk)
        raise error

    def _problem(self, size: int) -> BodyError | None:
        if size > self._limits.body:
            return self._too_large()
        if self._bytes > self._limits.bodies:
            problem = f"requests under way hold more than {self._limits.bodies} bytes → send this one again later"
            return BodyError(503, problem)
        return None

    def _too_large(self) -> BodyError:
        return BodyError(413, f"the request is larger than {self._limits.body} bytes")
