"""How many contexts to ask for in one call, so that none waits long in the queue of a slow service."""

from __future__ import annotations

from datetime import timedelta

_FIRST = 16
_AIM_SECONDS = 5.0
_AIM_SHARE = 1 / 6  # of the budget: when a service turns that much slower, contexts still have an answer in time


class PageSize:
    """Finds the page that takes a small part of the budget at the rate that was measured last.

    size: contexts to ask for next, at least 1
    most, budget: the largest page, and the time for each
    """

    def __init__(self, most: int, budget: timedelta) -> None:
        self._most = most
        self._aim = min(_AIM_SECONDS, budget.total_seconds() * _AIM_SHARE)
        self.size = min(_FIRST, most)

    def took(self, seconds: float, contexts: int, refused: int = 0) -> None:
        """Learn from a page: at most double, and go back at once to what its rate allows.

        refused: contexts that limits kept from the service. They cost no time, so they say nothing of its rate; what
            follows is a small page again.
        """
        fits = self._most if seconds <= 0 else int(min(contexts * self._aim / seconds, self._most))
        if refused:
            fits = min(fits, _FIRST)
        self.size = max(1, min(2 * self.size, fits, self._most))
