"""URIs of local files and folders: `file:///a/folder`, `sqlite:///an/index.db`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from schemas.errors import ConfigError
from schemas.redaction import without_password

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = {"#": "%23", "?": "%3F"}


def file_uri(path: str | Path, scheme: str = "file") -> str:
    """Write an absolute path as a URI; characters that a URI cannot contain, such as # and ?, are percent-encoded.

    >>> file_uri("/srv/C# shop")
    'file:///srv/C%23%20shop'
    """
    return f"{scheme}://{quote(os.fsencode(path), safe='/=+')}"


def path_of(uri: str, scheme: str = "file") -> Path:
    """Read the absolute path of a URI. Raises ConfigError for another scheme, and for an unencoded # or ?.

    >>> path_of("sqlite:///srv/C%23%20shop/index.db", "sqlite")
    PosixPath('/srv/C# shop/index.db')
    """
    start = f"{scheme}://"
    host, slash, path = uri.removeprefix(start).partition("/")
    if not uri.startswith(start) or host not in ("", "localhost") or not slash or not path.strip("/"):
        raise ConfigError.because(
            f"URI '{without_password(uri)}' is wrong, expected {start}/path", "write an absolute path"
        )
    for letter, escape in _ESCAPES.items():
        if letter in path:
            raise ConfigError.because(f"URI '{uri}' contains '{letter}', which ends its path", f"write {escape}")
    plain = os.fsdecode(unquote_to_bytes(path))
    if _CONTROL.search(plain):
        raise ConfigError.because(f"URI {uri!r} contains a control character", "rename the folder")
    return Path(f"/{plain}")
