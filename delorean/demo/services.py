"""The company's five HTTP microservices. They answer with the state at the time of the company's clock.

`python -m delorean.demo.services viewing_history --world FOLDER --clock FILE` serves one of them on 127.0.0.1, prints
the port, then the keys of each request as a line of JSON, and runs until SIGTERM. `/health` answers as soon as it
serves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from delorean.demo.state import CompanyState
from delorean.demo.world import read_world
from prana_proxy.clock import Clock, FileClock
from schemas.errors import DeloreanError

LARGEST_BATCH: Final = 1000
_LARGEST_REQUEST: Final = 1 << 20

AnswerFunction = Callable[..., Any]
RequestHandler = Callable[[web.Request], Awaitable[web.Response]]


def application(service: str, state: CompanyState, clock: Clock, *, devices: bool = False) -> web.Application:
    """Build a service: `viewing_history` takes a GET per profile, the others a POST for many contexts.

    devices: whether entries of lists have the device on which they were added
    """
    handlers = _Handlers(state, clock)
    app = web.Application(client_max_size=_LARGEST_REQUEST)
    app.router.add_get("/health", handlers.health)
    if service == "viewing_history":
        app.router.add_get("/history/{profile_id:-?[0-9]+}", handlers.history)
    elif service == "my_list":
        app.router.add_post(
            "/lists", handlers.batch(_PROFILE, state.my_list_with_devices if devices else state.my_list)
        )
    elif service == "predicted_ratings":
        app.router.add_post("/ratings", handlers.batch(_PROFILE, state.predicted_ratings, state.prepare))
    elif service == "similar_videos":
        app.router.add_post("/similar", handlers.batch(_SEED, state.similar_videos))
    else:
        app.router.add_post("/search", handlers.batch(_SEARCH, state.search_results))
    return app


SERVICES: Final = ("viewing_history", "my_list", "predicted_ratings", "search_results", "similar_videos")
_PROFILE: Final = {"profile_id": int}
_SEED: Final = {"seed_id": int}
_SEARCH: Final = {"query": str, "country": str}


@dataclass(frozen=True)
class _Handlers:
    """The services' handlers."""

    state: CompanyState
    clock: Clock

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def history(self, request: web.Request) -> web.Response:
        now, profile_id = self.clock(), int(request.match_info["profile_id"])
        _log_keys([[profile_id]])
        return web.json_response({"history": self.state.viewing_history(profile_id, now)})

    def batch(
        self, key: Mapping[str, type], answer: AnswerFunction, prepare: Callable[[int], None] | None = None
    ) -> RequestHandler:
        """Build a handler for `{"contexts": [{"profile_id": 1}, …]}` that answers each context separately.

        key: variable → type; answer: called with their values and the time
        """

        async def handle(request: web.Request) -> web.Response:
            try:
                contexts = (await request.json())["contexts"]
                values = [[context[name] for name in key] for context in contexts]
            except (ValueError, TypeError, KeyError):
                example = ", ".join(f'"{name}": …' for name in key)
                return web.json_response({"error": f'expected {{"contexts": [{{{example}}}, …]}}'}, status=400)
            if len(values) > LARGEST_BATCH:
                return web.json_response({"error": f"more than {LARGEST_BATCH} contexts"}, status=413)
            _log_keys(values)
            now = self.clock()
            if prepare is not None:
                await asyncio.to_thread(prepare, now)
            return web.json_response({"answers": [_one(key, answer, each, now) for each in values]})

        return handle


def _log_keys(values: Sequence[Sequence[object]]) -> None:
    print(json.dumps({"asked": values}), flush=True)  # noqa: T201  # the process's log


def _one(key: Mapping[str, type], answer: AnswerFunction, values: Sequence[object], now: int) -> dict[str, Any]:
    for (name, expected), value in zip(key.items(), values, strict=True):
        if not isinstance(value, expected):
            return {"error": f"{name} is not of type {expected.__name__}"}
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return {"error": f"{name} is not a 64-bit integer"}
    return {"value": answer(*values, now)}


async def serve(app: web.Application, host: str, port: int) -> None:
    """Serve, print the port, and stop on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    print(f"port {runner.addresses[0][1]}", flush=True)  # noqa: T201  # the parent process reads the port
    await stop.wait()
    await runner.cleanup()


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(description="One of the demo company's services.")
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--world", type=Path, required=True, help="folder of the company's events")
    parser.add_argument("--clock", type=Path, required=True, help="file with the company's time")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, default 127.0.0.1")
    parser.add_argument("--devices", action="store_true", help="of my_list: add a field to its entries, the device")
    parser.add_argument("--port", type=int, default=0, help="port, default: a free one")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = command_line().parse_args(arguments)
    try:
        clock = FileClock(options.clock)
        clock()
        app = application(options.service, CompanyState(read_world(options.world)), clock, devices=options.devices)
        asyncio.run(serve(app, options.host, options.port))
    except (DeloreanError, OSError) as error:
        print(f"{options.service}: {error}", file=sys.stderr)  # noqa: T201  # the process's error output
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
