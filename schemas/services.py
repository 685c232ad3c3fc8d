"""What the rest of the system knows of an online service, and what became of asking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from schemas.data_keys import DataKey, Kind, by_name
from schemas.errors import ConfigError


class Status(StrEnum):
    """What became of asking a service for one context. Only OK is a success.

    Rejected and short-circuited contexts never reached the service; the others did, or tried to.
    """

    OK = "ok"
    FALLBACK = "fallback"  # something else was given in place of an answer
    TIMEOUT = "timeout"  # no answer within the service's timeout or before the caller's deadline
    ERROR = "error"  # the service answered with an error, or could not be reached
    INVALID = "invalid"  # the answer does not fit its data key's type
    REJECTED = "rejected"  # our own limits said no
    SHORT_CIRCUITED = "short_circuited"  # the breaker was open


class OnFallback(StrEnum):
    """What encoders get where a service gave no answer but a fallback."""

    ABSENT = "absent"  # an absent element: a snapshot does not keep it, serving does not use it
    VALUE = "value"  # the fallback's value: a snapshot keeps it, marked, and serving uses it


@dataclass(frozen=True)
class Service:
    """An online service: the element it answers with and the context variables that its answer depends on.

    It is asked once for each distinct key, and the as-of rule compares exactly these variables.

    on_fallback: what encoders get where there is but a fallback's value, in training and in serving alike. No part of
        what service it is: captures by one setting and by the other are of the same service
    """

    name: str
    element: DataKey
    key: tuple[DataKey, ...]
    on_fallback: OnFallback = field(default=OnFallback.ABSENT, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if self.element.kind is not Kind.SERVICE_ELEMENT:
            raise ConfigError.because(f"service '{self.name}': its element is a {self.element.kind}")
        if not self.key or any(variable.kind is not Kind.CONTEXT for variable in self.key):
            raise ConfigError.because(
                f"service '{self.name}' needs a key of context variables", 'write key = { profile_id = "int64" }'
            )
        by_name(self.key)

    def to_json(self) -> dict[str, Any]:
        """Write the service as plain fields."""
        fields = {"name": self.name, "element": self.element.to_json(), "key": [key.to_json() for key in self.key]}
        usual = self.on_fallback is OnFallback.ABSENT  # as records of earlier versions have it
        return fields if usual else {**fields, "on_fallback": self.on_fallback.value}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        key = tuple(DataKey.from_json(variable) for variable in fields["key"])
        on_fallback = OnFallback(fields.get("on_fallback", OnFallback.ABSENT))
        return cls(fields["name"], DataKey.from_json(fields["element"]), key, on_fallback)
