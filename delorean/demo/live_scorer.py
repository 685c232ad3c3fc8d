"""A client of the live scorer."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from schemas.closeable import Closeable
from schemas.errors import ServiceError

_ATTEMPTS: Final = 5  # a service that did not answer in time says nothing about features
_TIMEOUT_SECONDS: Final = 60.0
_ANSWERED: Final = ("ok", "not_applicable")


class LiveScorer(Closeable):
    """A persistent connection to the live scorer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)

    def rank(self, request: dict[str, Any]) -> dict[str, Any]:
        """Request a ranking; retry when a service did not answer. Raises ServiceError when the scorer does not."""
        for _ in range(_ATTEMPTS):
            try:
                self._connection.request("POST", "/rank", json.dumps(request), {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServiceError.because(f"the live scorer does not answer: {error}", "see its log") from error
            if response.status != http.client.OK:
                raise ServiceError.because(f"the live scorer answered {response.status}: {text[:500]!r}")
            answer: dict[str, Any] = json.loads(text)
            if all(service["status"] in _ANSWERED for service in answer["services"].values()):
                break
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def feature_rows(ranked: list[dict[str, Any]], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the features of an explained answer's items, in the answer's order: (items, features)."""
    return np.array([[_number(entry["features"][name]) for name in names] for entry in ranked], dtype=np.float32)


def _number(value: float | str | None) -> float:
    """Parse the scorer's JSON for a float32: null is NaN, infinities are text."""
    return np.nan if value is None else float(value)
