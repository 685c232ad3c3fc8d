"""Errors within an answer: one rule for all protocols on where they are.

By default an answer's top-level `error` and `errors`, unless its declared type has a field of that name, or `answer`
leads through it. A JSON pointer names another field, "" none. Empty values are not errors: null, false, 0, a blank
text, and a list or an object of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from prana_proxy.gateway.answers import Cause, Reply
from schemas.errors import ConfigError
from schemas.services import Status

JsonPath = tuple[str, ...]

USUAL_NAMES = ("error", "errors")
TEXT_NAMES = ("message", "msg", "reason", "description", "detail", "title", "error", "code")
"""Fields of an error object that may contain its text: the first that is not empty."""
NO_TEXT = "without a text"


def pointer_names(pointer: str) -> JsonPath:
    """Return the names in a JSON pointer.

    >>> pointer_names("/a~1b/c")
    ('a/b', 'c')
    """
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:])


def error_paths(type: pa.DataType, answer: str, error: str | None) -> Sequence[JsonPath]:  # noqa: A002  # the field's own
    """Return the paths of the fields in an answer that may contain an error.

    type, answer: of the value, and the pointer to it; error: the pointer to errors, "" for none, None for the usual

    Raises ConfigError for a path into the value.
    """
    value = pointer_names(answer)
    names = {type.field(i).name for i in range(type.num_fields)} if pa.types.is_struct(type) else set()
    if error is None:
        return [(name,) for name in USUAL_NAMES if (value[0] != name if value else name not in names)]
    path = pointer_names(error)
    inside = path[: len(value)] == value and path[len(value) : len(value) + 1]
    if path and (path == value[: len(path)] or (inside and inside[0] in names)):
        raise ConfigError.because(f"is '{error}', which is part of the value", "name a field beside it")
    return [path] if path else []


def error_text(error: Any) -> str | None:
    """Return the text of an error decoded from JSON; None if it is empty.

    >>> error_text([{"code": 0, "message": "the database is down"}])
    'the database is down'
    >>> error_text({"code": 0, "message": ""}) is None
    True
    """
    if isinstance(error, str):
        return error.strip() or None
    if isinstance(error, bool) or error is None:
        return NO_TEXT if error else None
    if isinstance(error, int | float):
        return str(error) if error else None
    if isinstance(error, Mapping):
        if all(error_text(inner) is None for inner in error.values()):
            return None
        texts = (error_text(error.get(name)) for name in TEXT_NAMES)
        return next((text for text in texts if text and text != NO_TEXT), NO_TEXT)
    if isinstance(error, list | tuple):
        return next((text for inner in error if (text := error_text(inner))), None)
    return NO_TEXT


def error_at(value: Any, path: JsonPath) -> Reply | None:
    """Return the reply for an error at a path within decoded JSON, or None without an error."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    text = error_text(value)
    return None if text is None else service_error(text)


def service_error(text: str, cause: Cause = Cause.SERVICE) -> Reply:
    """Build the reply for an error in a service's answer."""
    return Reply.failed(Status.ERROR, f"the service answered with an error: {text}", cause)
