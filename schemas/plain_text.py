"""Text from data as it may be shown: no control character reaches a terminal, no markup a page."""

from __future__ import annotations

import html
import re

# Control characters but the line's end and the tab, those that turn the direction of text, halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_text(text: str) -> str:
    """Write control characters as escapes: they would move the cursor, change colours or turn text around.

    >>> plain_text("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape", "backslashreplace").decode(), text)


def escape(text: str) -> str:
    """Write text such that it is no markup in a page, within quotes neither.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(plain_text(text))
