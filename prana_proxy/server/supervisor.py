"""Keeps a proxy's processes running: one that dies is restarted, while the others serve on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from prana_proxy.config.reload import following
from prana_proxy.config.server_settings import ServerConfig
from prana_proxy.config.services_file import load_proxy_config
from prana_proxy.events import Event, LogFormat, log_event
from prana_proxy.gateway.shared_counters import SharedCounters
from prana_proxy.server.proxy import address_of, listen
from prana_proxy.server.worker import WorkerStart
from prana_proxy.server.worker_status import WorkerField, WorkerStatus
from schemas.errors import SetupError

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.02  # for processes to be ready
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # before a process that has died is started again
_STEADY_SECONDS = 30.0  # a process that ran for so long did not fail at its start
_EXTRA_SECONDS = 2.0  # beyond the configured time, for a process to end before it is killed


class Supervisor:
    """The processes of a proxy, as an asynchronous context manager: they are ready when it is entered.

    content: of the services.toml at the path, which the processes follow by themselves
    counters, worker_status: shared with the processes

    Raises SetupError when a port is taken, or when a process ends before it is ready.
    """

    def __init__(
        self,
        path: Path,
        content: bytes,
        server: ServerConfig,
        counters: SharedCounters,
        worker_status: WorkerStatus,
        log: LogFormat,
    ) -> None:
        self._path, self._content, self._server, self._log = path, content, server, log
        self._counters, self._worker_status = counters, worker_status
        self._running: dict[int, Process] = {}
        self._keeping: list[asyncio.Task[None]] = []
        self._stopping = False
        self._following = following(path, self._keep_content, lambda _: None)  # its processes log it
        self._listeners = [listen(self._server.host, port) for port in self._ports()]
        self.addresses = [address_of(listener, self._server.host) for listener in self._listeners]

    def kill(self) -> None:
        """Kill all processes."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()

    async def __aenter__(self) -> Self:
        """Start the processes and wait until they accept connections."""
        self._following.__enter__()
        self._keeping = [asyncio.ensure_future(self._keep(number)) for number in range(self._server.processes)]
        try:
            while not all(part[WorkerField.READY] for part in self._worker_status.processes):
                done, _ = await asyncio.wait(self._keeping, timeout=_LOOK_SECONDS)
                for keeper in done:
                    keeper.result()
        except BaseException:  # also an interrupt: no process may stay behind
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let calls in progress end, and then the processes."""
        self._stopping = True
        self._following.__exit__(None, None, None)
        for listener in self._listeners:
            listener.close()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        for number, keeper in enumerate(self._keeping):
            if number not in self._running:
                keeper.cancel()
        await asyncio.wait(self._keeping, timeout=self._server.stop_seconds + _EXTRA_SECONDS)
        self.kill()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _keep(self, number: int) -> None:
        """Run one process, again and again."""
        pause, once_ready = _FIRST_PAUSE, False
        while True:
            began = time.monotonic()
            ended = await self._run(number)
            once_ready = once_ready or self._worker_status.processes[number][WorkerField.READY] > 0
            self._counters.forget(number)
            self._worker_status.forget(number)
            if self._stopping:
                return
            if not once_ready:
                raise SetupError.because(f"process {number} of the proxy ended with {ended}", "see its output above")
            pause = _FIRST_PAUSE if time.monotonic() - began > _STEADY_SECONDS else min(2 * pause, _LONGEST_PAUSE)
            log_event(_log, logging.ERROR, "process_died", process=number, ended=ended, again_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _run(self, number: int) -> str:
        """Run one process until it ends, and return how it ended."""
        try:
            process = await self._start(number)
        except (OSError, SetupError) as error:  # such as its port, taken by another program meanwhile
            return str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the process is started again
            _log.error(Event("process_not_started", {"process": number}), exc_info=error)
            return type(error).__name__
        self._running[number] = process
        code = await process.wait()
        del self._running[number]
        return _signal_name(-code) if code < 0 else f"exit code {code}"

    async def _start(self, number: int) -> Process:
        shared = self._server.ports == "one"
        at = 0 if shared else number
        if self._listeners[at].fileno() < 0:
            self._listeners[at] = listen(self._server.host, int(self.addresses[at].rpartition(":")[2]))
        listener = self._listeners[at]
        assert self._counters.handle is not None
        assert self._worker_status.handle is not None
        handles = (listener.fileno(), self._counters.handle, self._worker_status.handle)
        start = WorkerStart(
            number, os.getpid(), *handles, str(self._path), self._content.decode(), self._server, self._log
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prana_proxy.server"),
            stdin=PIPE,
            pass_fds=handles,
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which then stops the others in order
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(start))
        process.stdin.close()
        if not shared:
            listener.close()  # so that nothing accepts for a process that has died
        return process

    def _ports(self) -> list[int]:
        port = self._server.port
        return [port + i if port else 0 for i in range(self._server.port_count)]

    def _keep_content(self, content: bytes) -> None:
        """Keep the file's content, if it is valid, for processes that start later."""
        load_proxy_config(self._path, content)
        self._content = content


def _signal_name(number: int) -> str:
    """Return a signal's name; most real-time signals have none in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
