"""Answers fetches from a gateway."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
from thrift.Thrift import TApplicationException, TException

from prana_proxy.events import tell
from prana_proxy.gateway.gateway import Fetch, Gateway
from prana_proxy.protocol.ipc import read_contexts, to_ipc
from prana_proxy.protocol.wire import LARGEST_FRAME, LARGEST_PAYLOAD, service_info
from prana_proxy.server.messages import Message
from schemas.errors import DataKeyError, DeloreanError, ServiceError
from schemas.generated.ttypes import BadRequest, FetchRequest, FetchResponse, ServiceInfo
from schemas.services import Status

_log = logging.getLogger(__name__)
_MS_A_REFUSAL = 0.25  # for which its caller had better wait: asking in vain must not take time from other services


class Handler:
    """Answers calls from a gateway. pause_ms: how long callers of a service had better wait before their next call."""

    def __init__(self, gateway: Gateway, pause_ms: Callable[[str], int]) -> None:
        self._gateway, self._pause_ms = gateway, pause_ms

    def services(self) -> list[ServiceInfo]:
        """List the services behind this proxy."""
        return [service_info(service) for service in self._gateway.services.values()]

    def start(self, request: FetchRequest | None, arrived: float) -> Fetch:
        """Begin to ask for what a request wants, within what is left of its budget. Raises BadRequest.

        arrived: when the request came, on the system's monotonic clock
        """
        if request is None or request.service_name is None or request.contexts is None or (request.budget_ms or 0) <= 0:
            raise _bad_request("a fetch needs service_name, contexts and budget_ms > 0")
        if request.service_name not in (services := self._gateway.services):
            raise _bad_request(str(ServiceError.unknown("service", request.service_name, services)))
        try:
            contexts = read_contexts(request.contexts)
            left = timedelta(milliseconds=request.budget_ms) - timedelta(seconds=time.monotonic() - arrived)
            return self._gateway.start({request.service_name: contexts}, left)  # asks nobody when nothing is left
        except DataKeyError as error:
            raise _bad_request(str(error)) from error
        except (OverflowError, ValueError) as error:
            raise _bad_request("contexts hold a time or date that no calendar has") from error

    def response(self, service: str, fetch: Fetch) -> FetchResponse:
        """Give as many of the first contexts' answers as one frame holds."""
        found = fetch.result()[service]
        refused = pc.equal(found.column("status"), Status.SHORT_CIRCUITED.value).true_count
        pause_ms = max(self._pause_ms(service), round(_MS_A_REFUSAL * refused))
        return FetchResponse(fitting(found), pause_ms or None)  # type: ignore[no-untyped-call]  # generated


class FetchCall:
    """A fetch that is to be answered. arrived: when it came, on the system's monotonic clock."""

    def __init__(self, handler: Handler, message: Message, arrived: float) -> None:
        self._handler, self._message, self._arrived = handler, message, arrived
        self._lock = threading.Lock()
        self._given_up = False
        self._fetch: Fetch | None = None

    def __call__(self) -> bytes:
        """Answer it, in a thread that may wait; gives a frame. Raises MalformedError."""
        request = self._message.arguments().request
        try:
            fetch = self._handler.start(request, self._arrived)
            with self._lock:
                self._fetch = fetch
                if self._given_up:
                    fetch.cancel()
            return self._message.answer(self._handler.response(request.service_name, fetch))
        except TException as error:
            return self._message.refusal(error)
        except DeloreanError as error:  # ours, such as a clock that is gone: the caller learns why, so does the log
            if not self._given_up:
                tell(_log, logging.ERROR, "fetch_failed", service=request.service_name, reason=str(error))
            return self._message.refusal(TApplicationException(TApplicationException.INTERNAL_ERROR, str(error)))

    def give_up(self) -> None:
        """Stop asking: nobody wants the answer any more."""
        with self._lock:
            self._given_up = True
            if self._fetch is not None:
                self._fetch.cancel()


def fitting(answers: pa.RecordBatch, most: int = LARGEST_PAYLOAD) -> bytes:
    """Write the first answers, as many as fit; an answer that would not fit alone becomes invalid."""
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
