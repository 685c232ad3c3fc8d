"""Decodes response bodies: compression, although none was requested, and other charsets than UTF-8.

Codings are gzip, deflate, br and zstd, also by their `x-` names, in any order and case; `deflate` with zlib's header or
without. Nothing is decompressed beyond the allowed size.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Sequence
from email.message import Message

import pyarrow as pa

from prana_proxy.gateway.answers import Reply
from schemas.services import Status

_ARROW_CODECS = {"gzip": "gzip", "br": "brotli", "zstd": "zstd"}
_CODINGS = (*_ARROW_CODECS, "deflate", "identity")
_MOST_CODINGS = 4
_CHARSETS = re.compile("ascii|utf-(8|16|32).*|iso8859-.*|cp.*|mac-.*|koi8.*|gb.*|big5.*|euc_.*|iso2022.*|shift_jis.*")
_BLOCK = 1 << 16


def codings_of(headers: Sequence[str]) -> list[str]:
    """Return the codings in Content-Encoding headers, the last applied first.

    >>> codings_of(["GZIP, identity", "x-gzip"])
    ['gzip', 'gzip']
    """
    names = [name.strip().lower().removeprefix("x-") for header in headers for name in header.split(",")]
    return [name for name in reversed(names) if name not in ("", "identity")]


def decompressed(body: bytes, codings: Sequence[str], most: int) -> bytes | Reply:
    """Decompress a body; return an invalid reply where that fails or exceeds `most` bytes."""
    for coding in codings:
        if coding not in _CODINGS or len(codings) > _MOST_CODINGS:
            return _invalid(f"the answer is compressed as '{', '.join(codings)}', expected {', '.join(_CODINGS)}")
        try:
            body = _inflated(body, most + 1) if coding == "deflate" else _read(body, _ARROW_CODECS[coding], most + 1)
        except (OSError, zlib.error, EOFError):  # pa.ArrowInvalid, a ValueError, is not raised here
            return _invalid(f"the answer is not {coding}, as its header says")
        if len(body) > most:
            return _invalid(f"the answer is larger than {most} bytes")
    return body


def as_utf8(body: bytes, content_type: str) -> bytes | Reply:
    """Return JSON in UTF-8 without a byte order mark, from the charset in its header or that of its first bytes."""
    charset = _charset(content_type) or "utf-8"
    if charset in ("utf-8", "ascii"):
        if body[:1] not in (b"\xef", b"\xfe", b"\xff", b"\0") and body[1:2] != b"\0":
            return body
        charset = json.detect_encoding(body)
    if charset in ("utf-8", "utf-8-sig"):
        return body.removeprefix(codecs.BOM_UTF8)
    try:
        return body.decode(charset).removeprefix("\ufeff").encode()
    except UnicodeError:
        return _invalid(f"the answer is not {charset}, as its header says")


def _charset(content_type: str) -> str | None:
    """Return Python's name of the charset in a media type; None if it has none, or an unknown one."""
    if "charset" not in content_type.lower():
        return None
    message = Message()
    message["Content-Type"] = content_type
    try:
        name = codecs.lookup(str(message.get_param("charset", ""))).name
    except (LookupError, ValueError):
        return None
    return name if _CHARSETS.fullmatch(name) else None


def _read(body: bytes, codec: str, most: int) -> bytes:
    """Decompress up to so many bytes."""
    parts: list[bytes] = []
    with pa.CompressedInputStream(pa.py_buffer(body), codec) as stream:
        while most > 0 and (part := stream.read(min(most, _BLOCK))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts)


def _inflated(body: bytes, most: int) -> bytes:
    try:
        return _inflate(body, most, zlib.MAX_WBITS)
    except zlib.error:  # some servers send the bare stream, and all clients accept it
        return _inflate(body, most, -zlib.MAX_WBITS)


def _inflate(body: bytes, most: int, bits: int) -> bytes:
    stream = zlib.decompressobj(bits)
    data = stream.decompress(body, most)
    if not stream.eof and len(data) < most:
        raise EOFError
    return data


def _invalid(reason: str) -> Reply:
    return Reply.failed(Status.INVALID, reason)
