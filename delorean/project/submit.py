"""Builds the command with which spark-submit runs a command of this project on a cluster."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from delorean.project.config import Project
from schemas.errors import ConfigError
from schemas.file_uri import file_uri
from schemas.redaction import shown_settings
from snapshotter.spark.cluster import ENVIRONMENT, PACKED_PYTHON, check_environment, require_master
from snapshotter.spark.jvm import spark_options, spark_submit
from snapshotter.spark.session import QUIET, WORKER_DAEMON

_MAIN = Path(__file__).parents[1] / "__main__.py"


@dataclass(frozen=True)
class Submission:
    """A command of this project that spark-submit runs.

    arguments: such as ("generate", "home.toml", "--config", "delorean.toml")
    py_files: modules for executors, in addition to those of the archive
    """

    project: Project
    arguments: Sequence[str]
    py_files: Path | None = None

    @contextmanager
    def command(self) -> Iterator[list[str]]:
        """Yield the command; secret settings are in a file that is deleted when the block ends."""
        with spark_options(self._settings) as options:
            yield self._command(options)

    @property
    def shown(self) -> list[str]:
        """The command for display: secret settings are shown without their values."""
        return self._command(
            [part for name, value in shown_settings(self._settings).items() for part in ("--conf", f"{name}={value}")]
        )

    @property
    def _settings(self) -> dict[str, str]:
        return {**QUIET, **self._pythons(), **self.project.spark}

    def _command(self, options: Sequence[str]) -> list[str]:
        submit = self.project.submit
        command = [str(spark_submit()), "--name", f"delorean {' '.join(self.arguments[:1])}"]
        if submit.master is not None:
            command += ["--master", submit.master]
        command += options
        if submit.environment is not None:
            command += ["--archives", f"{file_uri(submit.environment)}#{ENVIRONMENT}"]
        if self.py_files is not None:
            command += ["--py-files", str(self.py_files)]
        return [*command, str(_MAIN), *self.arguments]

    def check(self) -> None:
        """Raise in advance what would end the job later: SetupError for an unreachable master or a bad archive."""
        submit = self.project.submit
        if submit.environment is not None:
            check_environment(Path(submit.environment))
        if submit.master is not None:
            require_master(submit.master)

    def _pythons(self) -> Mapping[str, str]:
        if self.project.submit.environment is None:
            return {"spark.pyspark.python": sys.executable}
        return {
            "spark.pyspark.python": PACKED_PYTHON,
            "spark.pyspark.driver.python": sys.executable,
            WORKER_DAEMON[0]: WORKER_DAEMON[1],
        }


def module_files(modules: Sequence[str], folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of the modules in a project's folder, with their paths relative to it."""
    for module in modules:
        top = module.partition(".")[0]
        spec = find_spec(top)
        for location in [] if spec is None else [*(spec.submodule_search_locations or [spec.origin or ""])]:
            path = Path(location)
            if folder not in path.resolve().parents:
                continue
            for file in _python_files(path):
                yield file, str(file.resolve().relative_to(folder))


def _python_files(path: Path) -> list[Path]:
    """Return a module's file, or all of a package's. Raises ConfigError if one cannot be listed: executors need all."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
        return sorted(
            Path(parent, name)
            for parent, _, names in os.walk(path, onerror=_raise)
            for name in names
            if name.endswith(".py")
        )
    except OSError as error:
        raise ConfigError.because(f"module {path} cannot be packed: {error.strerror}: {error.filename}") from error


def _raise(error: OSError) -> None:
    raise error


def pack_modules(modules: Sequence[str], folder: Path, target: Path) -> Path | None:
    """Zip a project's own modules for executors; None where it has none.

    modules: names; folder: of the project
    """
    files = list(module_files(modules, folder.resolve()))
    if not files:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file, name in files:
            packed.write(file, name)
    return target
