"""Describes what experiments cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from delorean.cost.result import Amounts, Cost, CostRow
from delorean.display.description import describes
from delorean.display.formats import bytes_text, duration_text
from delorean.display.parts import Facts, Note, Part, Table


def _document(cost: Cost) -> dict[str, Any]:
    return {
        "since": cost.since,
        "until": cost.until,
        "by": list(cost.by),
        "rows": [{**_group(cost, row), **vars(row.amounts)} for row in cost.rows],
        "total": vars(cost.total),
        "notes": list(cost.notes),
    }


@describes(Cost, _document)
def _cost(cost: Cost) -> Iterator[Part]:
    yield Table([{**_group(cost, row), **_shown(row.amounts)} for row in cost.rows])
    if len(cost.rows) > 1:
        yield Facts({f"{name}, in all": value for name, value in _shown(cost.total).items()})
    yield Note(
        "captures are divided by the contexts that each experiment selected; what belongs to none has no experiment"
    )
    yield from (Note(note, strong=True) for note in cost.notes)


def _group(cost: Cost, row: CostRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in cost.by}


def _shown(amounts: Amounts) -> dict[str, str]:
    return {
        "keys asked": f"{amounts.calls:,.0f}",
        "captured": bytes_text(round(amounts.captured_bytes)),
        "stored": bytes_text(amounts.stored_bytes),
        "read at most": bytes_text(amounts.read_bytes),
        "core seconds": duration_text(amounts.core_seconds),
    }
