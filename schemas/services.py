"""What the rest of the system knows of an online service, and what became of asking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Service:
    """An online service: the element it answers with and the context variables that its answer depends on.

    It is asked once for each distinct key, and the as-of rule compares exactly these variables.
    """

    name: str
    element: DataKey
    key: tuple[DataKey, ...]

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
        return {"name": self.name, "element": self.element.to_json(), "key": [key.to_json() for key in self.key]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        key = tuple(DataKey.from_json(variable) for variable in fields["key"])
        return cls(fields["name"], DataKey.from_json(fields["element"]), key)
