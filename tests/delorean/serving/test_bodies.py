from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from delorean.serving.bodies import BodyError, BodyReader
from delorean.serving.limits import ServingLimits

LIMITS = ServingLimits(body=100, bodies=250, body_seconds=60.0)


def request(chunks: list[int], announced: bool, leaves: bool) -> Request:
    """A request whose body comes in chunks of so many bytes; `leaves`: its caller is gone before the end."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"x" * size, "more_body": leaves or i < len(chunks) - 1}
        for i, size in enumerate(chunks)
    ]
    messages += [{"type": "http.disconnect"}]
    headers = [(b"content-length", str(sum(chunks)).encode())] if announced else []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/rank", "headers": headers}, receive)


bodies = st.lists(
    st.tuples(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.booleans(), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(bodies)
def test_whatever_becomes_of_bodies_their_memory_is_free_again(each: list[tuple[list[int], bool, bool]]) -> None:
    async def read(reader: BodyReader, chunks: list[int], announced: bool, leaves: bool) -> None:
        size = sum(chunks)
        try:
            async with reader.read(request(chunks, announced, leaves)) as body:
                assert not leaves
                assert body == b"x" * size
                assert size <= LIMITS.body
                await asyncio.sleep(0)
        except BodyError as refusal:
            too_large = refusal.status == 413
            assert size > LIMITS.body or not too_large
        except ClientDisconnect:
            assert leaves

    async def scenario() -> None:
        reader = BodyReader(LIMITS)
        await asyncio.gather(*(read(reader, *one) for one in each))
        assert reader._bytes == 0

    asyncio.run(scenario())


def test_a_body_within_the_bounds_is_read_whole() -> None:
    async def scenario() -> None:
        async with BodyReader(LIMITS).read(request([60, 40], announced=True, leaves=False)) as body:
            assert body == b"x" * 100
        with pytest.raises(BodyError, match="larger than 100 bytes"):
            async with BodyReader(LIMITS).read(request([60, 41], announced=False, leaves=False)):
                pass

    asyncio.run(scenario())
