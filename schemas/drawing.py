"""Small drawings that stand in a page or a line of text: bars, histograms, heat maps.

Each is drawn as HTML or SVG that reads on light and dark ground alike, and as plain text for terminals.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.plain_text import escape, plain_text

# Colours of these shares, and mixed between them; dark ink can be read on all of them.
_SHARES: Final = (0.0, 0.6, 0.9, 1.0)
_COLOURS: Final = ((224, 141, 60), (244, 212, 168), (226, 236, 245), (139, 186, 226))
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SHADES: Final = ((1.0, "█"), (0.9, "▓"), (0.6, "▒"), (0.0, "░"))
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WIDE_CELLS: Final = 14  # columns; more are drawn as small squares
_CELLS_OF_BAR: Final = 10


def share_text(share: float | None) -> str:
    """Write a share so that only all is 100 % and only nothing 0 %.

    >>> share_text(0.99999), share_text(1.0), share_text(0.00001), share_text(None)
    ('99.9%', '100%', '0.1%', '-')
    """
    if share is None:
        return "-"
    if share in (0, 1):
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def span_text(seconds: float | None) -> str:
    """Write a span of time in the unit that suits it.

    >>> span_text(5400), span_text(0.25), span_text(None)
    ('1.5 h', '0.25 s', '-')
    """
    if seconds is None:
        return "-"
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def bytes_text(size: int) -> str:
    """Write a size in the unit that suits it.

    >>> bytes_text(900), bytes_text(5_000_000)
    ('900 B', '4.77 MiB')
    """
    place = 0 if size < 1024 else min(4, int(math.log(size, 1024)))
    return f"{size} B" if place == 0 else f"{size / 1024**place:.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti')[place]}B"


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], as a bar.

    value: None: there is nothing to have a share of
    enough: a smaller share is drawn as one that falls short
    """

    value: float | None
    enough: float = 0.0

    def html(self) -> str:
        """Draw it."""
        if self.value is None:
            return "-"
        short = "" if self.value >= self.enough else " dl-short"
        filled = f'<span class="dl-bar{short}"><span style="width:{min(max(self.value, 0), 1):.1%}"></span></span>'
        return f"{filled} {share_text(self.value)}"

    def text(self) -> str:
        """Write it.

        >>> Share(0.85).text()
        '████████▌  85.0%'
        """
        if self.value is None:
            return "-"
        halves = round(min(max(self.value, 0), 1) * 2 * _CELLS_OF_BAR)
        return f"{('█' * (halves // 2) + '▌' * (halves % 2)).ljust(_CELLS_OF_BAR)} {share_text(self.value)}"


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of some equal parts of a range. said: what is told where one points at it."""

    counts: Sequence[int]
    said: str = ""

    def html(self) -> str:
        """Draw it as SVG."""
        most = max(self.counts, default=0)
        if not most:
            return "-"
        width = 120 / len(self.counts)
        drawn = "".join(
            f'<rect x="{place * width:.1f}" y="{26 - height:.1f}" width="{width - 0.8:.1f}" height="{height:.1f}"/>'
            for place, count in enumerate(self.counts)
            if (height := max(24 * count / most, 1.0 if count else 0.0))
        )
        return (
            f'<svg class="dl-histogram" viewBox="0 0 120 28" width="120" height="28" role="img"><title>'
            f'{escape(self.said)}</title>{drawn}<path d="M0 26.5H120"/></svg>'
        )

    def text(self) -> str:
        """Write it.

        >>> Histogram([0, 1, 4, 8]).text()
        ' ▁▄█'
        """
        most = max(self.counts, default=0)
        if not most:
            return "-"
        return "".join(_BLOCKS[math.ceil(count / most * 8) - 1] if count else " " for count in self.counts)


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map: the share that colours it, a smaller line below it, and what pointing at it tells."""

    share: float | None
    small: str = ""
    said: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Shares by row and column, such as by service and day.

    key: what a cell shows, in words
    cells: (name, group) of each row → column → its cell; of what is not there, nothing is known
    """

    key: str
    columns: Sequence[str]
    cells: Mapping[tuple[str, str | None], Mapping[str, Cell]]

    def html(self) -> str:
        """Draw it, with figures where there is room for them."""
        wide = len(self.columns) <= _WIDE_CELLS or any(
            cell.small for row in self.cells.values() for cell in row.values()
        )
        key = "".join(
            f'<span class="dl-key" style="background:{colour(share)}">{share_text(share)}</span>' for share in _SHARES
        )
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns) if wide else self._short_head()
        rows = "".join(
            f"<tr><th>{escape(name)}{'' if group is None else f' <small>{escape(group)}</small>'}</th>"
            + "".join(_cell(row.get(column), column, wide) for column in self.columns)
            + "</tr>"
            for (name, group), row in self.cells.items()
        )
        kind = "dl-heat" if wide else "dl-heat dl-squares"
        return (
            f'<p><span class="dl-soft">{escape(self.key)}</span> <span class="dl-keys">{key}</span></p>'
            f'<div class="dl-scroll"><table class="{kind}">'
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def text(self) -> str:
        """Write it, as figures or, where there are many, as shades."""
        names = [plain_text(" ".join(filter(None, key))) for key in self.cells]
        wide = max(map(len, names), default=0)
        lines = [self.key]
        if len(self.columns) <= _WIDE_CELLS:
            widths = [max(len(column), 5) for column in self.columns]
            lines.append(" ".join(["".ljust(wide), *(c.rjust(w) for c, w in zip(self.columns, widths, strict=True))]))
        else:
            lines.append(
                f"{''.ljust(wide)} {self.columns[0]} … {self.columns[-1]}  █ all ▓ ≥ 90% ▒ ≥ 60% ░ less · none"
            )
        for name, row in zip(names, self.cells.values(), strict=True):
            shares = [row[column].share if column in row else None for column in self.columns]
            if len(self.columns) <= _WIDE_CELLS:
                shown = " ".join(share_text(share).rjust(w) for share, w in zip(shares, widths, strict=True))
            else:
                shown = "".join(_shade(share) for share in shares)
            lines.append(f"{name.ljust(wide)} {shown}")
        return "\n".join(line.rstrip() for line in lines)

    def _short_head(self) -> str:
        """Say of each column only what differs from the one before it: of days mostly the last two digits."""
        head, before = [], ""
        for name in self.columns:
            short = name if name[:-2] != before else name[-2:]
            turned = ' class="dl-up"' if len(short) > 2 else ""
            head.append(f'<th title="{escape(name)}"><span{turned}>{escape(short)}</span></th>')
            before = name[:-2]
        return "".join(head)


def colour(share: float | None) -> str:
    """Give the colour of a share; of none, a shade that reads on any ground."""
    if share is None:
        return "rgba(128,128,128,.16)"
    upper = min(max(bisect_left(_SHARES, share), 1), len(_SHARES) - 1)
    low, high = _SHARES[upper - 1], _SHARES[upper]
    part = min(max((share - low) / (high - low), 0.0), 1.0)
    mixed = (round(a + (b - a) * part) for a, b in zip(_COLOURS[upper - 1], _COLOURS[upper], strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def _cell(cell: Cell | None, column: str, wide: bool) -> str:
    said = f"{column}: " + ("nothing" if cell is None else cell.said or share_text(cell.share))
    if cell is None or cell.share is None:
        return f'<td class="dl-none" title="{escape(said)}">{"-" if wide else ""}</td>'
    shown = f"<span>{share_text(cell.share)}</span>" if wide else ""
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f'<td style="background:{colour(cell.share)}" title="{escape(said)}">{shown}{small}</td>'


def _shade(share: float | None) -> str:
    if share is None:
        return " "
    return next((shade for least, shade in _SHADES if share >= least and share > 0), "·")
