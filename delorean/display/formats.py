"""Values as text for people: shares, durations, sizes, times, nested values; and text that is safe in a page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from schemas.plain_text import plain_text
from schemas.strict_json import json_text, plain_value

_DURATIONS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_FIRST_VALUES: Final = 3  # of a list


def share_text(share: float | None) -> str:
    """Format a share as a percentage; only exactly 1 is 100 % and only exactly 0 is 0 %.

    >>> share_text(0.99999), share_text(1.0), share_text(0.00001), share_text(None)
    ('99.9%', '100%', '0.1%', '-')
    """
    if share is None:
        return "-"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def duration_text(seconds: float | None) -> str:
    """Format a duration in the largest unit that it reaches.

    >>> duration_text(5400), duration_text(0.25), duration_text(None)
    ('1.5 h', '0.25 s', '-')
    """
    if seconds is None:
        return "-"
    size, unit = next((unit for unit in _DURATIONS if seconds >= unit[0]), _DURATIONS[-1])
    return f"{seconds / size:.3g} {unit}"


def bytes_text(size: int) -> str:
    """Format a size in the largest unit that it reaches.

    >>> bytes_text(900), bytes_text(5_000_000)
    ('900 B', '4.77 MiB')
    """
    power = 0 if size < 1024 else min(4, int(math.log(size, 1024)))
    return f"{size} B" if power == 0 else f"{size / 1024**power:.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti')[power]}B"


def value_text(value: Any, longest: int = 200) -> str:
    """Format a value: numbers with few digits, times to the second, nested values as JSON, nothing as a dash.

    longest: characters after which texts and nested values are cut
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds").replace("+00:00", "Z")
    return cut(_nested_text(value), longest)


def _nested_text(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple | dict) and not value:
        return "-"
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    if isinstance(value, str | timedelta):
        return str(value)
    plain = plain_value(value)
    return plain if isinstance(plain, str) else json_text(plain)


def data_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of data for a table: of long lists the first values, and whole numbers as text, for most are ids.

    >>> data_row({"profile": 12345, "items": [1, 2, 3, 4], "history": []})
    {'profile': '12345', 'items': '1, 2, 3, … (4)', 'history': '[]'}
    """
    return {name: _short(value) for name, value in row.items()}


def _short(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, list) or any(isinstance(each, Mapping | list) for each in value):
        return value
    if not value:
        return "[]"  # there is a value, and it is empty
    first = ", ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in value[:_FIRST_VALUES])
    return first + (f", … ({len(value)})" if len(value) > _FIRST_VALUES else "")


def is_number(value: Any) -> bool:
    """Whether a value is aligned to the right in tables."""
    return isinstance(value, int | float | timedelta) and not isinstance(value, bool)


def cut(text: str, longest: int) -> str:
    """Shorten a text to a number of characters; the last is then an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def escape(text: str) -> str:
    """Escape text for a page, so that it is markup neither between tags nor in a quoted attribute.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(plain_text(text))
