"""What a driver makes sure of before it works on a cluster: its master answers, executors have the same packages."""

from __future__ import annotations

import socket
import sys
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from schemas.errors import ConfigError, SetupError

ENVIRONMENT = "environment"  # what an archive is unpacked as beside each executor
PACKED_PYTHON = f"./{ENVIRONMENT}/bin/python"
_LIST = "environment.json"
_LARGEST_LIST = 1 << 20
_MASTER_SECONDS = 5.0
# What executors import; docker/locked.py packs it, with all that comes with it.
NEEDED = ("boto3", "delorean-features", "msgspec", "numba", "numpy", "pandas", "pyarrow", "thrift", "xxhash")


@dataclass(frozen=True)
class _Packed:
    """What an archive says is in it: of which Python, and each package with its version."""

    python: str
    packages: Mapping[str, str]


def check_environment(archive: Path) -> None:
    """Raise ConfigError unless an archive has this Python, all that executors need, and the versions that are here."""
    listed = _list_of(archive)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if listed.python != here:
        raise ConfigError.because(
            f"environment {archive} is for Python {listed.python}, this is Python {here}", "pack it with this one"
        )
    missing = [name for name in NEEDED if name not in listed.packages]
    if missing:
        raise ConfigError.because(f"environment {archive} lacks {', '.join(missing)}", "run make package")
    others = [
        f"{name} {found}, here {_installed(name) or 'none'}"
        for name, found in listed.packages.items()
        if found != _installed(name)
    ]
    if others:
        raise ConfigError.because(
            f"environment {archive} has other packages than the driver: {'; '.join(others[:5])}", "run make package"
        )


def find_master(master: str) -> None:
    """Raise SetupError if a standalone master does not answer: Spark looks for a minute, and says it in many lines.

    master: as Spark names it; nobody is looked for unless it begins with spark://
    """
    if not master.startswith("spark://"):
        return
    for host in master.removeprefix("spark://").split(","):
        parts = urlsplit(f"spark://{host}")
        with suppress(OSError, ValueError):  # the last of a port that is none
            socket.create_connection((parts.hostname or "", parts.port or 7077), _MASTER_SECONDS).close()
            return
    raise SetupError.because(f"no Spark master answers at {master}", "start it, or correct its address")


def _list_of(archive: Path) -> _Packed:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            member = tar.next()  # the first: nobody reads the rest for it
            file = None if member is None or member.name != _LIST else tar.extractfile(member)
            return msgspec.json.decode(b"" if file is None else file.read(_LARGEST_LIST), type=_Packed)
    except FileNotFoundError as error:
        raise ConfigError.because(f"environment {archive} is not there", "run make package") from error
    except (OSError, EOFError, tarfile.TarError, msgspec.DecodeError) as error:
        raise ConfigError.because(
            f"environment {archive} is no archive that begins with {_LIST}: {error}", "run make package"
        ) from error


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
