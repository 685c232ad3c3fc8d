"""Types in JSON records: as text if that reads back exactly, else also as a serialized Arrow schema."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from schemas.arrow_types import parse_type, type_text
from schemas.errors import DataKeyError
from schemas.printed_types import parse_printed_type


def type_to_json(type: pa.DataType) -> dict[str, str]:  # noqa: A002  # the field's own name
    """Write a type as text fields: `type`, and `arrow` if `parse_type` cannot read the type back from text.

    >>> type_to_json(pa.list_(pa.int64()))
    {'type': 'list<item: int64>'}
    >>> sorted(type_to_json(pa.timestamp("ms", "UTC")))
    ['arrow', 'type']

    Field `type` is the text; field `arrow` is an Arrow schema with one field, as IPC in base64.
    """
    for text in (str(type), type_text(type)):
        if _reads_back(text, type):
            return {"type": text}
    return {"type": str(type), "arrow": base64.b64encode(pa.schema([("", type)]).serialize()).decode()}


def type_from_json(fields: Mapping[str, Any]) -> pa.DataType:
    """Read a type that this or an earlier release wrote. Raises DataKeyError."""
    serialized = fields.get("arrow")
    if serialized is not None:
        try:
            return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(serialized, validate=True))).field(0).type
        except (pa.ArrowException, OSError, binascii.Error, TypeError, IndexError, ValueError) as error:
            raise DataKeyError.because(f"serialized Arrow type '{fields['type']}' cannot be read: {error}") from error
    try:
        return parse_type(fields["type"])
    except DataKeyError:
        return parse_printed_type(fields["type"])


def _reads_back(text: str, type: pa.DataType) -> bool:  # noqa: A002
    try:
        return bool(parse_type(text) == type)
    except DataKeyError:
        return False
