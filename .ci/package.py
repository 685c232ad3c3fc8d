"""Packs what Spark's executors need of this project into an archive: `make package` → build/environment.tar.gz.

With `ARGS=--models` they can also train, and score with models that do not consist of trees.

A cluster then needs the Python that packed it, and nothing of ours. The archive holds the part of requirements.lock
that runs there, every hash checked, this project, a program `bin/python` that runs that Python with them, and first of
all a list of what is in it, which `delorean submit` compares with what the driver has.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distributions
from pathlib import Path

from install import PIP, UV, uv_environment

BUILD = Path("build")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LAUNCHER = f"""#!/bin/sh
# Runs the Python that this environment was made for, with its packages. Where PATH has none, DELOREAN_PYTHON names it.
# What it says is plain ASCII: Spark reads it in whatever encoding a bare machine has.
python=$(command -v "${{DELOREAN_PYTHON:-python{PYTHON}}}") || {{
  echo "Python {PYTHON} is not on $(hostname): install it there, or name it in spark.executorEnv.DELOREAN_PYTHON" >&2
  exit 127
}}
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here/lib${{PYTHONPATH:+:$PYTHONPATH}}" exec "$python" "$@"
"""


def install(*what: str) -> None:
    """Put packages into the environment, with uv, or where that cannot be had with pip."""
    target = ["--target", str(BUILD / "environment/lib"), "--no-deps", *what]
    if UV.exists():
        command = [str(UV), "pip", "install", "-q", "--python", sys.executable, "--no-build-isolation", *target]
    else:
        command = [*PIP, "install", "-q", "--no-build-isolation", *target]
    subprocess.run(command, env=uv_environment(), check=True)


def compile_modules(folder: Path) -> None:
    """Compile once what each executor of each job would compile anew; nobody looks whether the sources have changed."""
    mode = ("--invalidation-mode", "unchecked-hash")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "0", *mode, str(folder)], check=True)


def pack(folder: Path, archive: Path, first: str) -> None:
    """Pack a folder, so that the same content gives the same bytes. first: the file that readers look at first."""
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names.sort(key=lambda path: path.name != first)
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in names:
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            content = path.read_bytes()
            member.size, member.mode = len(content), path.stat().st_mode & 0o755
            tar.addfile(member, io.BytesIO(content))


def main() -> None:
    """Install, list and pack."""
    part_of_lock = "executors-models" if "--models" in sys.argv[1:] else "executors"
    environment = BUILD / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    (environment / "bin").mkdir(parents=True)
    locked = subprocess.run(
        [sys.executable, "docker/locked.py", part_of_lock], check=True, capture_output=True, text=True
    ).stdout
    part = BUILD / "executors.txt"
    part.write_text(locked)
    install("--require-hashes", "-r", str(part))
    install(".")
    for tests in environment.glob("lib/*/tests"):
        shutil.rmtree(tests)  # of pandas, Numba and pyarrow, which nobody imports: a sixth of all files
    compile_modules(environment / "lib")
    launcher = environment / "bin/python"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    found = {one.name: one.version for one in distributions(path=[str(environment / "lib")])}
    listed = {"python": PYTHON, "packages": dict(sorted(found.items()))}
    (environment / "environment.json").write_text(json.dumps(listed, indent=1))
    archive = BUILD / "environment.tar.gz"
    pack(environment, archive, "environment.json")
    print(f"{archive}: {len(found)} packages for Python {PYTHON}, {archive.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
