"""Online services, and the outcome of a call to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from schemas.data_keys import DataKey, Kind, by_name
from schemas.errors import ConfigError


class Status(StrEnum):
    """The outcome of asking a service for one context. Only OK is a success.

    Rejected and short-circuited requests were never sent to the service.
    """

    OK = "ok"
    FALLBACK = "fallback"  # a configured value was returned in place of an answer
    TIMEOUT = "timeout"  # no answer within the service's timeout or before the caller's deadline
    ERROR = "error"  # the service answered with an error, or could not be reached
    INVALID = "invalid"  # the answer does not fit its data key's type
    REJECTED = "rejected"  # our own limits were exceeded
    SHORT_CIRCUITED = "short_circuited"  # the circuit breaker was open


class OnFallback(StrEnum):
    """What encoders receive when a service returned a fallback value instead of an answer."""

    ABSENT = "absent"  # no element: snapshots do not keep the fallback, serving does not use it
    VALUE = "value"  # the fallback's value: snapshots keep it, marked, and serving uses it


@dataclass(frozen=True)
class Service:
    """An online service: the element it answers with and the context variables that its answer depends on.

    It is called once for each distinct key, and the as-of rule compares exactly these variables.

    on_fallback: what encoders receive for a fallback, in training and in serving alike. It does not distinguish
        services: captures with either setting are of the same service
    """

    name: str
    element: DataKey
    key: tuple[DataKey, ...]
    on_fallback: OnFallback = field(default=OnFallback.ABSENT, compare=False)

    def __post_init__(self) -> None:
        """Reject services without a service element or a key of context variables."""
        if self.element.kind is not Kind.SERVICE_ELEMENT:
            raise ConfigError.because(f"service '{self.name}': its element is a {self.element.kind}")
        if not self.key or any(variable.kind is not Kind.CONTEXT for variable in self.key):
            raise ConfigError.because(
                f"service '{self.name}' needs a key of context variables", 'write key = { profile_id = "int64" }'
            )
        by_name(self.key)

    def reads(self, other: Service) -> bool:
        """Return whether what was captured under another declaration can be read as this one's element.

        >>> from schemas.data_keys import context_variable, service_element
        >>> key = (context_variable("profile_id", "int64"),)
        >>> before, now = (Service("history", service_element("history", t), key) for t in ("int32", "int64"))
        >>> now.reads(before), before.reads(now)
        (True, False)
        """
        same = (self.name, self.key, self.element.name) == (other.name, other.key, other.element.name)
        return same and self.element.reads(other.element.type)

    def to_json(self) -> dict[str, Any]:
        """Write the service as JSON fields."""
        fields = {"name": self.name, "element": self.element.to_json(), "key": [key.to_json() for key in self.key]}
        is_default = self.on_fallback is OnFallback.ABSENT  # records of earlier versions have no such field
        return fields if is_default else {**fields, "on_fallback": self.on_fallback.value}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read fields that `to_json` wrote."""
        key = tuple(DataKey.from_json(variable) for variable in fields["key"])
        on_fallback = OnFallback(fields.get("on_fallback", OnFallback.ABSENT))
        return cls(fields["name"], DataKey.from_json(fields["element"]), key, on_fallback)
