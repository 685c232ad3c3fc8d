"""Text from data that is safe to print: no control character reaches a terminal, a log or a `repr`."""

from __future__ import annotations

import re

# Control characters except newline and tab, characters that change the direction of text, lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_text(text: str) -> str:
    """Replace control characters by escapes: they would move the cursor, change colours or reverse text.

    >>> plain_text("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape", "backslashreplace").decode(), text)
