"""The HTTP interface of the live scorer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from delorean.serving.bodies import BodyError, BodyReader
from delorean.serving.limits import ServingLimits
from delorean.serving.ranker import Ranker
from delorean.serving.request_queue import CallerLeftError, QueueError, RequestQueue
from delorean.serving.served_tests import PackagedTest
from delorean.step_timer import StepTimer
from prana_proxy import supervised
from schemas.errors import DataKeyError, DeloreanError

_log = logging.getLogger(__name__)
_CLIENT_CLOSED_REQUEST = 499  # not read by anyone: the caller has disconnected
_READ, _WRITE = ("GET", "HEAD"), ("POST",)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(ranker: Ranker, limits: ServingLimits | None = None) -> FastAPI:
    """Build the app: POST /rank, GET /health, /ready, /package. It is ready once the golden rows are reproduced.

    A body is read before its request takes a place in the queue. Threads, never the event loop, wait for services, and
    time spent waiting for a thread counts against the budget. `app.state.ending` makes `/ready` return 503 while
    everything else is still answered.
    """
    limits = limits or ServingLimits()
    bodies, queue = BodyReader(limits), RequestQueue(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(ranker.warm_up)
        yield
        queue.close()

    # No documentation pages: they load scripts from other hosts.
    app = FastAPI(title="DeLorean", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.ending = False

    async def health(_: Request) -> Response:
        log = ranker.log
        return _json({"status": "alive", **({} if log is None else {"exposures": log.health()})})

    async def ready(_: Request) -> Response:
        return _readiness(ranker, app.state.ending)

    async def package(_: Request) -> Response:
        return _json(_about(ranker))

    async def rank(request: Request) -> Response:
        return await _rank(request, ranker, bodies, queue)

    _add(app, "/health", _READ, health)
    _add(app, "/ready", _READ, ready)
    _add(app, "/package", _READ, package)
    _add(app, "/rank", _WRITE, rank)
    app.add_exception_handler(HTTPException, _refuse)
    return app


def _add(app: FastAPI, path: str, methods: tuple[str, ...], endpoint: _Endpoint) -> None:
    """Serve a path, with and without a trailing slash, and list its methods for OPTIONS."""
    allowed = {"Allow": ", ".join((*methods, "OPTIONS"))}

    async def serve(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        if request.method not in methods:
            return _json({"error": f"{path} accepts {' and '.join(methods)}, not {request.method}"}, 405, allowed)
        return await endpoint(request)

    for each in (path, f"{path}/"):
        app.router.add_route(each, serve, methods=_METHODS)


async def _refuse(request: Request, error: Exception) -> Response:
    """Respond to requests that no route serves."""
    assert isinstance(error, HTTPException)  # it is registered for this class only
    if error.status_code == 404:
        return _json({"error": f"unknown path {request.url.path} → POST /rank, GET /health, /ready or /package"}, 404)
    return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _rank(request: Request, ranker: Ranker, bodies: BodyReader, queue: RequestQueue) -> Response:
    try:
        async with bodies.read(request) as body:
            budget = ranker.budget.total_seconds()
            return await queue.run(lambda ends: _answer(ranker, body, ends), budget, request.is_disconnected)
    except BodyError as error:
        # Do not wait for the rest of the body.
        return _json({"error": str(error)}, error.status, {"Connection": "close"})
    except QueueError as error:
        return _json({"error": f"{error} → retry later"}, 503, {"Retry-After": "1"})
    except (ClientDisconnect, CallerLeftError):
        return Response(status_code=_CLIENT_CLOSED_REQUEST)


def _answer(ranker: Ranker, body: bytes, ends: float) -> Response:
    timer = StepTimer()
    try:
        response = _json(ranker.rank(body, timer, ends))
    except DataKeyError as error:
        return _json({"error": str(error)}, 422)
    except DeloreanError as error:
        return _json({"error": f"{type(error).__name__}: {error}"}, 500)
    except Exception as error:  # noqa: BLE001  # a defect ends one request, not the others of the connection
        _log.exception("a request failed")
        return _json({"error": f"internal error: {type(error).__name__}"}, 500)
    steps = timer.seconds.items()
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={seconds * 1_000:.3f}" for name, seconds in steps)
    return response


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _readiness(ranker: Ranker, ending: bool) -> Response:
    if ending:
        return _json({"status": "ending"}, 503)
    if not ranker.warm:
        return _json({"status": "warming up"}, 503)
    problems = [*([ranker.problem] if ranker.problem else []), *supervised.problems()]
    if problems:
        # Stay in service: if this made scorers unready, a fault of the index would take all of them out at once.
        return _json({"status": "degraded", "problem": "; ".join(problems)})
    return _json({"status": "ready"})


def _about(ranker: Ranker) -> dict[str, Any]:
    package = ranker.package
    return {
        "path": str(package.path),
        "features": package.features,
        "context": [key.to_json() for key in package.context],
        "items": [key.to_json() for key in package.items],
        "services": [service.to_json() for service in package.services],
        **({} if package.tasks is None else {"tasks": msgspec.to_builtins(package.tasks)}),
        "report": msgspec.to_builtins(package.report),
        "lineage": package.lineage,
        **({"tests": [_about_test(test) for test in ranker.tests.packaged]} if ranker.tests.packaged else {}),
    }


def _about_test(packaged: PackagedTest) -> dict[str, Any]:
    test = packaged.test
    cells = {
        name: {
            "share": cell.share,
            "package": None if cell.package is None else packaged.packages[name].digest,
            "interleave": cell.interleave,
            "explore": cell.explore,
        }
        for name, cell in test.cells.items()
    }
    return {"name": test.name, "unit": test.unit, "start": test.start, "end": test.end, "cells": cells}
