"""Python functions as services, for tests and notebooks: `python:package.module:function`, `python:__main__:function`.

`url`: `function(key)` is called with a dict of the key's variables and returns the value. `batch_url`: `function(keys)`
is called with a list of such dicts and returns a list with a value, or an Exception, for each in their order. A raised
exception is an error of all contexts of the call.

Values are as in JSON: dicts or objects with attributes for structs; lists, tuples or NumPy arrays for lists; datetimes
with a zone or integer microseconds for times. They must fit the type as strictly. An `error` in a dict is an error, as
in JSON.

A function may be `async`. A plain one runs in a thread. A thread cannot be stopped: one whose call has timed out or
was cancelled counts towards the service's `max_concurrent` until it ends, and closing the gateway waits for it.
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
from prana_proxy.gateway.answers import Reply, refuse_times_outside
from prana_proxy.gateway.config import ServiceConfig
from prana_proxy.gateway.decoded_values import has_times
from prana_proxy.gateway.discovery import Instance
from prana_proxy.gateway.error_fields import JsonPath, error_at, error_paths
from prana_proxy.gateway.services import Ask, Key, Protocol
from schemas.errors import ConfigError
from schemas.services import Status

_MOST_THREADS = 10_000  # the largest max_concurrent, which limits them instead


class PythonProtocol(Protocol):
    """All Python services of a gateway: one pool of threads for the plain functions."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "python-service")

    @staticmethod
    def check(config: ServiceConfig) -> None:
        """Reject a URL that does not name a function."""
        _function(config.url)
        for name in ("answer", "discovery"):
            if getattr(config, name):
                raise ConfigError.because(f"is a function, which has no {name}", f"remove {name}")

    @staticmethod
    def own_instance(config: ServiceConfig) -> Instance:  # noqa: ARG004  # the same for all
        """Return a name for this process."""
        return Instance("in-process", 1)

    def asking(self, config: ServiceConfig) -> Ask:
        """Return the function that calls this service."""
        element, answer = config.service.element, config.answer_type
        function, kind = _function(config.url), answer.python()
        paths, timed = error_paths(element.type, config.answer, config.error), has_times(element.type)

        async def ask(
            _: Instance, keys: Sequence[Key], __: float, /, *, new_connection: bool = False
        ) -> Sequence[Reply]:
            del new_connection  # there are no connections
            own = [dict(key) for key in keys]  # copies, which the function may change
            result = await self._call(function, own if config.batched else own[0])
            if isinstance(result, _Raised):
                return [_failed(result.error)] * len(keys)
            values = _as_values(result, len(keys)) if config.batched else [result]
            if isinstance(values, Reply):
                return [values] * len(keys)
            received_at = self._clock()
            replies = [_error_in(value, paths) or _reply(value, kind, received_at) for value in values]
            return [refuse_times_outside(reply, answer) for reply in replies] if timed else replies

        return ask

    async def close(self) -> None:
        """Let threads end."""
        self._threads.shutdown(wait=False)

    async def _call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Return a function's result, or what it raised."""
        if inspect.iscoroutinefunction(function):
            result = function(argument)
        else:
            result = await self._in_a_thread(function, argument)
        return await _await(result) if inspect.isawaitable(result) else result

    async def _in_a_thread(self, function: Callable[[Any], Any], argument: Any) -> Any:
        running = asyncio.get_running_loop().run_in_executor(self._threads, _result_of, function, argument)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():  # it is in flight until then, however often it is cancelled
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def _result_of(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except BaseException as error:  # noqa: BLE001  # also SystemExit: it must not end the gateway's event loop
        return _Raised(error)


async def _await(result: Any) -> Any:
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
    """Return the error in a dict, or in an object with attributes, as in an answer of any other protocol."""
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
    """Import the function that a URL names. Raises ConfigError."""
    module_name, _, name = url.partition(":")[2].partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError.because(f"is '{url}', expected a function", "write python:package.module:function")
    refuse_hidden(module_name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # it runs the user's module
        raise ConfigError.because(
            f"module '{module_name}' cannot be imported: {type(error).__name__}: {error}", "name another, or install it"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        functions = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise ConfigError.unknown(f"function of {module_name}", name, functions)
    if not callable(function):
        raise ConfigError.because(f"{module_name}:{name} is a {type(function).__name__}, expected a function")
    result: Callable[[Any], Any] = function
    return result


PROTOCOL = PythonProtocol
