"""Builds the command by which spark-submit runs one of the project's own commands on a cluster."""

from __future__ import annotations

import re
import socket
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from delorean.config import Project
from schemas.errors import ConfigError, SetupError
from snapshotter.spark_session import QUIET

ENVIRONMENT = "environment"  # what an archive is unpacked as beside each executor
_LIST = "environment.json"
_LARGEST_LIST = 1 << 20
_SECRET = re.compile(r"secret|password|token|access[.]?key|credential", re.IGNORECASE)
_MASTER_SECONDS = 5.0
# What executors import; docker/locked.py packs it, with all that comes with it.
NEEDED = ("boto3", "delorean-features", "msgspec", "numba", "numpy", "pandas", "pyarrow", "thrift", "xxhash")


@dataclass(frozen=True)
class _Packed:
    """What an archive says is in it: of which Python, and each package with its version."""

    python: str
    packages: Mapping[str, str]


@dataclass(frozen=True)
class Submission:
    """A command of ours, to be run by spark-submit.

    arguments: of the command, such as ("generate", "home.toml", "--config", "delorean.toml")
    py_files: modules that executors import, beside those of the archive
    """

    project: Project
    arguments: Sequence[str]
    py_files: Path | None = None

    @property
    def command(self) -> list[str]:
        """What is run."""
        submit = self.project.submit
        command = [str(_spark_submit()), "--name", f"delorean {' '.join(self.arguments[:1])}"]
        if submit.master is not None:
            command += ["--master", submit.master]
        for name, value in {**QUIET, **self._pythons(), **self.project.spark}.items():
            command += ["--conf", f"{name}={value}"]
        if submit.environment is not None:
            command += ["--archives", f"{submit.environment}#{ENVIRONMENT}"]
        if self.py_files is not None:
            command += ["--py-files", str(self.py_files)]
        return [*command, str(Path(__file__).with_name("__main__.py")), *self.arguments]

    @property
    def shown(self) -> list[str]:
        """The command without secrets."""
        return [_without_secret(word) for word in self.command]

    def check(self) -> None:
        """Raise what would end the job later, and less clearly: SetupError for a master that nobody answers at."""
        submit = self.project.submit
        if submit.environment is not None:
            check_environment(Path(submit.environment))
        if submit.master is not None and submit.master.startswith("spark://"):
            _find_master(submit.master)

    def _pythons(self) -> Mapping[str, str]:
        if self.project.submit.environment is None:
            return {"spark.pyspark.python": sys.executable}
        return {
            "spark.pyspark.python": f"./{ENVIRONMENT}/bin/python",
            "spark.pyspark.driver.python": sys.executable,
        }


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


def module_files(modules: Sequence[str], folder: Path) -> Iterator[tuple[Path, str]]:
    """Give the files of modules that lie in a project's folder, and what they are called below it."""
    for module in modules:
        top = module.partition(".")[0]
        spec = find_spec(top)
        for place in [] if spec is None else [*(spec.submodule_search_locations or [spec.origin or ""])]:
            path = Path(place)
            if folder not in path.resolve().parents:
                continue
            files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
            for file in files:
                yield file, str(file.resolve().relative_to(folder))


def pack_modules(modules: Sequence[str], folder: Path, target: Path) -> Path | None:
    """Zip a project's own modules for executors; None where it has none.

    modules: names; folder: the project's, whose modules can be imported
    """
    files = list(module_files(modules, folder.resolve()))
    if not files:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file, name in files:
            packed.write(file, name)
    return target


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


def _find_master(master: str) -> None:
    """Standalone Spark itself looks for a minute, and then says it in many lines."""
    for host in master.removeprefix("spark://").split(","):
        parts = urlsplit(f"spark://{host}")
        with suppress(OSError, ValueError):  # the last of a port that is none
            socket.create_connection((parts.hostname or "", parts.port or 7077), _MASTER_SECONDS).close()
            return
    raise SetupError.because(f"no Spark master answers at {master}", "start it, or correct master under [submit]")


def _spark_submit() -> Path:
    import pyspark

    return Path(pyspark.__file__).parent / "bin" / "spark-submit"


def _without_secret(word: str) -> str:
    name, equals, _ = word.partition("=")
    return f"{name}=…" if equals and name.startswith("spark.") and _SECRET.search(name) else word
