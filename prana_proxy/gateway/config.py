"""How a gateway and each of its services are configured."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from prana_proxy.gateway.breaker import BreakerRules
from prana_proxy.gateway.decoded_values import AnswerType
from prana_proxy.gateway.limits import Limits
from schemas.errors import ConfigError
from schemas.services import OnFallback, Service

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Fallback:
    """What replaces a failed reply, tried in this order, marked as a fallback, and never a success.

    cached_seconds: an earlier answer for the same key, no older than that
    service: another service of the gateway, whose type is the same and whose key's variables this one's key has
    value: as decoded from JSON; None: there is none
    encoders: what encoders get of it; the service's record has it too
    """

    cached_seconds: float | None = None
    service: str | None = None
    value: Any = None
    encoders: OnFallback = OnFallback.ABSENT


@dataclass(frozen=True)
class ServiceConfig:
    """How one service is called.

    url: such as `http://host/lists/{profile_id}`; each protocol documents its own
    batched: whether one call has many contexts
    idl: the interface file of a Thrift service
    discovery: URI of the source of its instances; None: the URL's own address
    batch_size, batch_wait_seconds: contexts in one call of a batched service, and how long a call that is not full
        waits for more callers' contexts
    answer: JSON pointer, through objects, to the value within an answer; "" is all of it
    error: JSON pointer to an error within an answer; "": there is none, None: the default fields, see `error_fields`
    timeout_seconds: of one call, whether or not its caller waits so long
    retries: further calls after one that failed, each to another instance, of idempotent services only
    retry_share: of all calls, at most this share is made again
    resend: whether a call is sent again, over a new connection, when the kept one turns out closed before any of the
        answer arrived; else each call has a new connection
    optional: paths of the element's fields that answers may lack; None: those with a declared default
    max_answer_bytes, max_batch_bytes: the largest answer, and the largest answer to a batch, that are read
    """

    service: Service
    url: str
    batched: bool = False
    idl: str | None = None
    discovery: str | None = None
    batch_size: int = 100
    batch_wait_seconds: float = 0.002
    answer: str = ""
    error: str | None = None
    timeout_seconds: float = 1.0
    retries: int = 1
    retry_share: float = 0.1
    idempotent: bool = True
    resend: bool = True
    limits: Limits = field(default_factory=Limits)
    breaker: BreakerRules = field(default_factory=BreakerRules)
    fallback: Fallback | None = None
    optional: tuple[str, ...] | None = None
    max_answer_bytes: int = 4 * MEBIBYTE
    max_batch_bytes: int = 64 * MEBIBYTE

    @cached_property
    def answer_type(self) -> AnswerType:
        """How answers are decoded."""
        return AnswerType.of(self.service.element, self.optional)

    @property
    def call_size(self) -> int:
        """How many contexts one call has."""
        return self.batch_size if self.batched else 1


@dataclass(frozen=True)
class GatewayConfig:
    """The services of a gateway, and the clock that stamps their answers.

    clock: `file:///path` of a file that holds an RFC 3339 instant, read for each answer; None is the system's clock
    """

    services: tuple[ServiceConfig, ...]
    clock: str | None = None

    def __post_init__(self) -> None:
        """Reject two services of one name."""
        names = [service.service.name for service in self.services]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError.because(f"service '{name}' is declared twice", "give one of them another name")
