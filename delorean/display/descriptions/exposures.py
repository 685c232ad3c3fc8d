"""Describes the exposures of a test: how many requests each cell answered by day, and what the log lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delorean.display.description import describes
from delorean.display.parts import Note, Part, Table
from delorean.exposures.counts import ExposureCounts


def _document(counts: ExposureCounts) -> dict[str, Any]:
    return {
        "test": counts.test,
        "requests": sum(counts.cells.values()),
        "cells": dict(counts.cells),
        "dropped": sum(day.dropped for day in counts.days),
        "days": [{**vars(day), "cells": dict(day.cells)} for day in counts.days],
    }


@describes(ExposureCounts, _document)
def _exposures(counts: ExposureCounts) -> Iterator[Part]:
    total = sum(counts.cells.values())
    cells = [
        {"cell": cell, "requests": requests, "share": f"{requests / total:.2%}"}
        for cell, requests in counts.cells.items()
    ]
    yield Table(cells, "cells")
    days = [
        {"day": day.day, **day.cells, "repeated": day.repeated or None, "dropped": day.dropped or None}
        for day in counts.days
    ]
    yield Table(days, "requests by day, UTC")
    if dropped := sum(day.dropped for day in counts.days):
        yield Note(
            f"scorers could not log {dropped:,} requests: an analysis lacks them, see their logs for why", strong=True
        )
