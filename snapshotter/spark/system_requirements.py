"""What the machine must have: Java, free disk space, a Python with venv.

Only the standard library is imported: the Makefile runs this file before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OLDEST_JAVA = 17
ENVIRONMENT_BYTES = 4 * 2**30
"""Free disk space that building the environment needs: 2.3 GB, and as much again while pyspark is unpacked."""


def java_problem(environment: Mapping[str, str]) -> str | None:
    """Return what is wrong with the Java that Spark would start, or None. environment: of the process."""
    home = environment.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java", path=environment.get("PATH"))
    fix = f"install Java {OLDEST_JAVA} (Debian: apt-get install openjdk-17-jre-headless) or point JAVA_HOME to one"
    if java is None:
        return f"Java is missing: Spark needs {OLDEST_JAVA} or newer → {fix}"
    try:
        answer = subprocess.run(  # noqa: S603  # the Java that the user's own environment names
            [java, "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{java} does not run ({error}): Spark needs Java {OLDEST_JAVA} or newer → {fix}"
    version = java_version(answer.stderr + answer.stdout)
    if version is None or version < OLDEST_JAVA:
        return f"{java} is Java {version or 'of unknown version'}: Spark needs {OLDEST_JAVA} or newer → {fix}"
    return None


def java_version(text: str) -> int | None:
    """Return Java's major version from the output of `java -version`.

    >>> java_version('openjdk version "17.0.15" 2025-04-15'), java_version('java version "1.8.0_392"')
    (17, 8)
    """
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def venv_problem() -> str | None:
    """Return what this Python lacks to create an environment, or None."""
    missing = [module for module in ("venv", "ensurepip") if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{sys.executable} has no {' and no '.join(missing)}, so it cannot create an environment → "
        f"install it (Debian: apt-get install {name}-venv) or name another: make PYTHON=/path/to/python3.11"
    )


def disk_problem(folder: Path, needed: int = ENVIRONMENT_BYTES) -> str | None:
    """Return how much disk space is missing where the folder is, or None. needed: in bytes."""
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"{free / 2**30:.1f} GiB free at {folder}, {needed / 2**30:.1f} GiB needed → "
        "free some disk space, or move the project to a larger disk"
    )


def main() -> int:
    """Check the needs of building the environment in the working directory, and of Spark in it; print each problem."""
    built = Path(".venv", ".ready").exists()
    checks = [java_problem(os.environ)]
    if not built:
        checks += [venv_problem(), disk_problem(Path.cwd())]
    problems = [problem for problem in checks if problem]
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201  # a script's own output, before anything is installed
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
