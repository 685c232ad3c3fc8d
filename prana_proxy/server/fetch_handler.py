"""Answers the proxy's calls from a gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from thrift.Thrift import TApplicationException, TException

from prana_proxy.events import log_event
from prana_proxy.gateway.async_gateway import AsyncGateway, Requests
from prana_proxy.protocol.ipc import read_contexts, to_ipc
from prana_proxy.protocol.thrift_protocol import LARGEST_FRAME, LARGEST_PAYLOAD, service_info
from prana_proxy.server.messages import Message
from schemas.errors import DataKeyError, DeloreanError, ServiceError
from schemas.generated.ttypes import BadRequest, FetchRequest, FetchResponse, ServiceInfo
from schemas.services import Status

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_MS_A_REFUSAL = 0.25  # pause per short-circuited context: repeated refused calls must not take time from other services
_LARGE_BYTES = 1 << 17  # the event loop is held for a few milliseconds by as much


class FetchHandler:
    """Answers the proxy's calls from a gateway. Belongs to the gateway's event loop.

    pause_ms: how long callers of a service should pause before their next call
    """

    def __init__(self, gateway: AsyncGateway, pause_ms: Callable[[str], int]) -> None:
        self._gateway, self._pause_ms = gateway, pause_ms

    def services(self) -> list[ServiceInfo]:
        """List the services behind this proxy."""
        return [service_info(service) for service in self._gateway.services.values()]

    async def fetch(self, message: Message, arrived: float) -> bytes:
        """Answer a fetch: return the frame to send. Raises MalformedError.

        arrived: when the call arrived, on the system's monotonic clock; its budget counts from then
        """
        request = message.arguments().request
        try:
            return message.answer(await self._respond(request, arrived))
        except TException as error:
            return message.refusal(error)
        except DeloreanError as error:  # such as a clock file that was deleted: both the caller and the log get it
            log_event(_log, logging.ERROR, "fetch_failed", service=request.service_name, reason=str(error))
            return message.refusal(TApplicationException(TApplicationException.INTERNAL_ERROR, str(error)))

    async def _respond(self, request: FetchRequest | None, arrived: float) -> FetchResponse:
        if request is None or request.service_name is None or request.contexts is None or (request.budget_ms or 0) <= 0:
            raise _bad_request("a fetch needs service_name, contexts and budget_ms > 0")
        name = request.service_name
        if name not in (services := self._gateway.services):
            raise _bad_request(str(ServiceError.unknown("service", name, services)))
        requests = await _run(len(request.contexts), self._prepare, request)
        left = request.budget_ms / 1000 - (time.monotonic() - arrived)
        answers = await self._gateway.ask(requests, left)  # sends nothing when no time is left
        batch = await _run(len(request.contexts), answers[name].batch, requests[name].rows)
        refused = pc.equal(batch.column("status"), Status.SHORT_CIRCUITED.value).true_count
        pause_ms = max(self._pause_ms(name), round(_MS_A_REFUSAL * refused))
        data = await _run(batch.nbytes, fitting, batch)
        return FetchResponse(data, pause_ms or None)  # type: ignore[no-untyped-call]  # generated

    def _prepare(self, request: FetchRequest) -> Requests:
        try:
            return self._gateway.prepare({request.service_name: read_contexts(request.contexts)})
        except DataKeyError as error:
            raise _bad_request(str(error)) from error
        except (OverflowError, ValueError) as error:
            raise _bad_request("contexts hold a time or date that no calendar has") from error


async def _run(size: int, work: Callable[..., _T], *arguments: Any) -> _T:
    """Do work on so many bytes: in a thread when they are many, so that other calls go on meanwhile."""
    return await asyncio.to_thread(work, *arguments) if size > _LARGE_BYTES else work(*arguments)


def fitting(answers: pa.RecordBatch, most: int = LARGEST_PAYLOAD) -> bytes:
    """Write the first answers, as many as fit a frame, as Arrow IPC; one that does not fit alone becomes invalid."""
    rows = answers.num_rows
    while True:
        data = to_ipc(answers.slice(0, rows))
        if len(data) <= most:
            return data
        if rows == 1:
            reason = f"the answer takes {len(data)} bytes of Arrow, more than a frame of {LARGEST_FRAME} holds"
            row = {"status": Status.INVALID.value, "captured_at": None, "reason": reason, "value": None}
            return to_ipc(pa.RecordBatch.from_pylist([row], schema=answers.schema))
        rows = min(rows - 1, max(1, int(rows * most / len(data) * 0.9)))


def _bad_request(message: str) -> BadRequest:
    return BadRequest(message)  # type: ignore[no-untyped-call]  # generated
