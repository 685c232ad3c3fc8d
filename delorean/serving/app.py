"""The HTTP face of the live scorer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from delorean.serving.ranker import Ranker, Stopwatch
from schemas.errors import DataKeyError, DeloreanError

LARGEST_BODY = 1 << 20  # bytes
_THREADS = 16
_MOST_WAITING = 256


class _TooLargeError(Exception):
    """The body is larger than is read."""


def create_app(ranker: Ranker) -> FastAPI:
    """Build the app: POST /rank, GET /health, /ready, /package. It is ready once the golden rows are reproduced.

    Waiting for services happens on threads, never on the event loop; requests beyond 256 at a time get 503.
    """
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rank")
    waiting = asyncio.Semaphore(_MOST_WAITING)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(ranker.warm_up)
        yield
        threads.shutdown()

    # Its pages of documentation load scripts from elsewhere.
    app = FastAPI(title="DeLorean", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "alive"})

    @app.get("/ready")
    async def ready() -> Response:
        return _json({"status": "ready"}) if ranker.warm else _json({"status": "warming up"}, 503)

    @app.get("/package")
    async def package() -> Response:
        return _json(_about(ranker))

    @app.post("/rank")
    async def rank(request: Request) -> Response:
        if waiting.locked():
            return _json({"error": f"{_MOST_WAITING} requests are waiting already → ask again later"}, 503)
        async with waiting:
            try:
                body = await _read(request)
            except _TooLargeError:
                return _json({"error": f"the request is larger than {LARGEST_BODY} bytes"}, 413)
            return await asyncio.get_running_loop().run_in_executor(threads, _answer, ranker, body)

    return app


def _answer(ranker: Ranker, body: bytes) -> Response:
    watch = Stopwatch()
    try:
        response = _json(ranker.rank(body, watch))
    except DataKeyError as error:
        return _json({"error": str(error)}, 422)
    except DeloreanError as error:
        return _json({"error": f"{type(error).__name__}: {error}"}, 500)
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={ms:.3f}" for name, ms in watch.steps.items())
    return response


async def _read(request: Request) -> bytes:
    """Read the body, and no more of it than is allowed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise _TooLargeError
    return bytes(body)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _about(ranker: Ranker) -> dict[str, Any]:
    package = ranker.package
    return {
        "path": str(package.path),
        "features": package.features,
        "context": [key.to_json() for key in package.context],
        "items": [key.to_json() for key in package.items],
        "services": [service.to_json() for service in package.services],
        "report": package.report.to_json(),
        "lineage": package.lineage,
    }
