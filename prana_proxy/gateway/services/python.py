"""Python functions as services, for tests and notebooks: `python:package.module:function`, `python:__main__:function`.

`url`: `function(key)` is called with a dict of the key's variables and returns the value. `batch_url`: `function(keys)`
is called with a list of such dicts and returns a list, with a value for each in their order, or an Exception in its
place. What is raised is an error of all contexts asked for.

Values are what JSON would hold, or the like: dicts or objects with attributes for structs, lists, tuples or arrays of
numpy for lists, datetimes with a zone or integer microseconds for times; they must fit the type as strictly. An `error`
in a dict is one, as in JSON.

A function may be `async`. A plain one runs in a thread. A thread cannot be stopped: one whose call is out of time, or
wanted by nobody, keeps the call's place among the service's `max_concurrent` until it ends, and closing the gateway
waits for it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from encoders.project_modules import refuse_hidden
from prana_proxy.clock import Clock
from prana_proxy.gateway.answers import Reply, has_times, python_type, refuse_times_outside
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.error_fields import JsonPath, error_at, error_paths
from prana_proxy.gateway.services import Ask, Key, Protocol
from schemas.errors import ConfigError
from schemas.services import Status

_MOST_THREADS = 10_000  # as many as a bulkhead may have: bulkheads limit instead


class PythonProtocol(Protocol):
    """All Python services of a gateway: one pool of threads for the plain functions."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "python-service")

    @staticmethod
    def check(config: ServiceConfig) -> None:
        """Refuse what does not name a function."""
        _function(config.url)
        for name in ("answer", "discovery"):
            if getattr(config, name):
                raise ConfigError.because(f"is a function, which has no {name}", f"remove {name}")

    @staticmethod
    def own_instance(config: ServiceConfig) -> Instance:  # noqa: ARG004  # the same for all
        """Give a name for this process."""
        return Instance("in-process", 1)

    def asking(self, config: ServiceConfig) -> Ask:
        """Give the function that asks this service."""
        type = config.service.element.type  # noqa: A001  # the field's own name
        function, kind = _function(config.url), python_type(type)
        paths = error_paths(type, config.answer, config.error)

        async def ask(
            _: Instance, keys: Sequence[Key], __: float, /, *, new_connection: bool = False
        ) -> Sequence[Reply]:
            del new_connection  # there are no connections
            own = [dict(key) for key in keys]  # which the function may change
            result = await self._call(function, own if config.batched else own[0])
            if isinstance(result, _Raised):
                return [_failed(result.error)] * len(keys)
            values = _as_values(result, len(keys)) if config.batched else [result]
            if isinstance(values, Reply):
                return [values] * len(keys)
            received_at = self._clock()
            replies = [_error_in(value, paths) or _reply(value, kind, received_at) for value in values]
            return [refuse_times_outside(reply, type) for reply in replies] if has_times(type) else replies

        return ask

    async def close(self) -> None:
        """Let threads end."""
        self._threads.shutdown(wait=False)

    async def _call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Give what a function returns, or has raised."""
        if inspect.iscoroutinefunction(function):
            result = function(argument)
        else:
            result = await self._in_a_thread(function, argument)
        return await _awaited(result) if inspect.isawaitable(result) else result

    async def _in_a_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        running = asyncio.get_running_loop().run_in_executor(self._threads, _called, function, argument)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():  # its place is not free before, however often somebody gives up
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def _called(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except BaseException as error:  # noqa: BLE001  # whatever it is, it must not end the gateway's event loop
        return _Raised(error)


async def _awaited(result: Any) -> Any:
    try:
        return await result
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _Raised(error)
    except BaseException as error:  # noqa: BLE001  # see above
        return _Raised(error)


def _as_values(result: Any, count: int) -> Sequence[Any] | Reply:
    if not isinstance(result, list | tuple | np.ndarray):
        return Reply.failed(Status.INVALID, f"the function returned a {type(result).__name__}, expected a list")
    if len(result) != count:
        return Reply.failed(Status.INVALID, f"the batch has {len(result)} answers, expected {count}")
    return list(result)


def _reply(value: Any, kind: Any, received_at: int) -> Reply:
    if isinstance(value, Exception):
        return _failed(value)
    try:
        return Reply(Status.OK, _converted(value, kind), received_at)
    except (msgspec.ValidationError, RecursionError) as error:
        return Reply.failed(Status.INVALID, str(error))


def _error_in(value: Any, paths: Sequence[JsonPath]) -> Reply | None:
    """Give the error that a dict, or an object with attributes, holds as an answer of any other protocol would."""
    for path in paths:
        error = value
        for name in path:
            error = error.get(name) if isinstance(error, dict) else getattr(error, name, None)
        if not callable(error) and (reply := error_at(error, ())) is not None:
            return reply
    return None


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, from_attributes=True)
    except msgspec.ValidationError:
        return msgspec.convert(_without_numpy(value), kind, from_attributes=True)


def _without_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_without_numpy(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_numpy(one) for name, one in value.items()}
    return value


def _failed(error: BaseException) -> Reply:
    text = str(error)
    return Reply.failed(Status.ERROR, f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _function(url: str) -> Callable[[Any], Any]:
    """Find the function that a URL names. Raises ConfigError."""
    module_name, _, name = url.partition(":")[2].partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError.because(f"is '{url}', expected a function", "write python:package.module:function")
    refuse_hidden(module_name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # it runs somebody's module
        raise ConfigError.because(
            f"module '{module_name}' cannot be imported: {type(error).__name__}: {error}", "name another, or install it"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        functions = [found for found, value in vars(module).items() if callable(value) and not found.startswith("_")]
        raise ConfigError.unknown(f"function of {module_name}", name, functions)
    if not callable(function):
        raise ConfigError.because(f"{module_name}:{name} is a {type(function).__name__}, expected a function")
    found: Callable[[Any], Any] = function
    return found


PROTOCOL = PythonProtocol
