"""How many contexts one call of the proxy requests, so that none waits long in the queue of a slow service."""

from __future__ import annotations

from datetime import timedelta

_FIRST = 16
_AIM_SECONDS = 5.0
_AIM_SHARE = 1 / 6  # of the budget: if the service becomes that much slower, contexts still get an answer in time


class PageSize:
    """The page that takes a small part of the budget at the rate measured last.

    size: contexts to request next, at least 1
    most, budget: the largest page, and the time for each
    """

    def __init__(self, most: int, budget: timedelta) -> None:
        self._most = most
        self._aim = min(_AIM_SECONDS, budget.total_seconds() * _AIM_SHARE)
        self.size = min(_FIRST, most)

    def adapt(self, seconds: float, contexts: int, rejected: int = 0) -> None:
        """Adapt to a page that was answered: at most double, and shrink at once to what its rate allows.

        rejected: contexts that limits kept from the service. They took no time, so they say nothing about its rate; the
            next page is a small one.
        """
        fits = self._most if seconds <= 0 else int(min(contexts * self._aim / seconds, self._most))
        if rejected:
            fits = min(fits, _FIRST)
        self.size = max(1, min(2 * self.size, fits, self._most))
