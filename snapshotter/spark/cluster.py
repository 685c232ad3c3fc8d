"""Checks before work on a cluster begins: its master answers, and executors will have the driver's packages."""

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

ENVIRONMENT = "environment"  # the folder beside each executor that an archive is unpacked to
PACKED_PYTHON = f"./{ENVIRONMENT}/bin/python"
_LIST = "environment.json"
_MOST_LIST_BYTES = 1 << 20
_MASTER_SECONDS = 5.0
# What executors import; docker/locked.py packs these with their dependencies.
NEEDED = (
    *("boto3", "delorean-features", "msgspec", "numba", "numpy", "pandas", "pyarrow", "pyiceberg", "thrift", "xxhash"),
)


@dataclass(frozen=True)
class _PackageList:
    """The contents that an archive lists: its Python's version, and the version of each package."""

    python: str
    packages: Mapping[str, str]


def check_environment(archive: Path) -> None:
    """Raise ConfigError unless an archive has this Python, all that executors need, and the driver's versions."""
    listed = _list_of(archive)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if listed.python != here:
        raise ConfigError.because(
            f"environment {archive} is for Python {listed.python}, this is Python {here}", "pack it with this Python"
        )
    missing = [name for name in NEEDED if name not in listed.packages]
    if missing:
        raise ConfigError.because(f"environment {archive} lacks {', '.join(missing)}", "run make package")
    different = [
        f"{name} {packed}, here {_installed(name) or 'none'}"
        for name, packed in listed.packages.items()
        if packed != _installed(name)
    ]
    if different:
        raise ConfigError.because(
            f"environment {archive} has other packages than the driver: {'; '.join(different[:5])}", "run make package"
        )


def require_master(master: str) -> None:
    """Raise SetupError if a standalone master does not answer. Spark itself tries for a minute, and logs many lines.

    master: as Spark names it; only those that begin with spark:// are checked
    """
    if master.startswith("sc://"):
        raise SetupError.because(
            f"{master.partition('/;')[0]} is a Spark Connect server, to which spark-submit cannot submit",
            "run the command itself: it connects to it",
        )
    if not master.startswith("spark://"):
        return
    for host in master.removeprefix("spark://").split(","):
        parts = urlsplit(f"spark://{host}")
        with suppress(OSError, ValueError):  # ValueError: the port is not a number
            socket.create_connection((parts.hostname or "", parts.port or 7077), _MASTER_SECONDS).close()
            return
    raise SetupError.because(f"no Spark master answers at {master}", "start it, or correct its address")


def _list_of(archive: Path) -> _PackageList:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            member = tar.next()  # the first, so that the rest need not be read
            file = None if member is None or member.name != _LIST else tar.extractfile(member)
            return msgspec.json.decode(b"" if file is None else file.read(_MOST_LIST_BYTES), type=_PackageList)
    except FileNotFoundError as error:
        raise ConfigError.because(f"environment {archive} does not exist", "run make package") from error
    except (OSError, EOFError, tarfile.TarError, msgspec.DecodeError) as error:
        raise ConfigError.because(
            f"environment {archive} is not an archive that begins with {_LIST}: {error}", "run make package"
        ) from error


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
