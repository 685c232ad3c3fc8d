"""Fills the environment it runs in from requirements.lock, or another from its own lock, every hash checked.

uv does it in a fifth of pip's time; where uv is not to be had, or fails (a private index with an exotic login, say),
plain pip does the same. Run by the Makefile: `.venv/bin/python .ci/install.py`, which installs this project too, and
`.venv/bin/python .ci/install.py .venv-airflow dags/requirements.lock`, of wheels alone.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path("requirements.lock")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = Path(sys.executable).with_name("uv")
CHECKED = ["--require-hashes", "--no-deps", "--no-build-isolation"]  # pyspark is built by the setuptools of the lock


def locked(*names: str, without: bool = False) -> str:
    """Give the lock's blocks of these packages, or all but them; a block is a pin and its hashes."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK.read_text(), flags=re.MULTILINE)
    return "".join(block for block in blocks if (block.split("==")[0] in names) is not without)


def pip_install(requirements: str, python: str = sys.executable) -> bool:
    """Install a lock's blocks with pip into the environment of a Python."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [python, *PIP[1:], "install", "-q", *CHECKED, "-r", file.name]
        return subprocess.run(command, check=False).returncode == 0


def uv_environment() -> dict[str, str]:
    """Tell uv what pip is configured to use: index, extra index, folders of wheels, certificates."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^(\S+)\.([a-z-]+)=('.*'|\".*\")$", listed, flags=re.MULTILINE)
    rank = {"global": 0, "install": 1, ":env:": 2}  # pip's own order: the later wins
    pip = {name: ast.literal_eval(value) for _, name, value in sorted(found, key=lambda row: rank.get(row[0], -1))}
    folders = [place for place in pip.get("find-links", "").split() if "://" in place or Path(place).exists()]
    settings = {
        "UV_DEFAULT_INDEX": pip.get("index-url"),
        "UV_INDEX": pip.get("extra-index-url", "").replace("\n", " "),
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip does; the hashes make it safe
        "UV_FIND_LINKS": ",".join(folders),
        "UV_NO_INDEX": pip.get("no-index"),
        "UV_INSECURE_HOST": pip.get("trusted-host", "").replace("\n", " "),
        "UV_HTTP_TIMEOUT": pip.get("timeout") or pip.get("default-timeout"),
        "UV_SYSTEM_CERTS": "1",  # a company's own certificates are often in the system's store alone
        "SSL_CERT_FILE": pip.get("cert"),
        "HTTPS_PROXY": pip.get("proxy"),
    }
    return {**{name: value for name, value in settings.items() if value}, **os.environ}


def uv_install(lock: Path = LOCK, python: str = sys.executable) -> bool:
    """Make an environment exactly a lock with uv; False, having said why, if that cannot be done."""
    if not pip_install(locked("uv")):
        return False
    command = [
        *(str(UV), "pip", "sync", "-q", "--python", python, "--require-hashes", "--no-build-isolation"),
        str(lock),
    ]
    return subprocess.run(command, env=uv_environment(), check=False).returncode == 0


def fill(environment: Path, lock: Path) -> int:
    """Install a lock into another environment than this one."""
    text, python = lock.read_text(), str(environment / "bin" / "python")
    print(f"installing {text.count('==')} packages into {environment}, once …", flush=True)
    if uv_install(lock, python):
        return 0
    print("uv did not do it; plain pip takes over, which takes some minutes", file=sys.stderr)
    return 0 if pip_install(text, python) else 1


def main() -> int:
    """Install the lock and then this project, editable."""
    print(f"installing {locked(without=True).count('==')} packages into .venv, once …", flush=True)
    if not pip_install(locked("setuptools")):
        print(
            "the package index does not answer as the lock expects → check network and `pip config list`, run again",
            file=sys.stderr,
        )
        return 1
    if not uv_install():
        print("uv did not do it; plain pip takes over, which takes some minutes", file=sys.stderr)
        if not pip_install(locked("uv", without=True)):
            return 1
    editable = [*PIP, "install", "-q", "--no-deps", "--no-build-isolation", "-e", "."]
    return subprocess.run(editable, check=False).returncode


if __name__ == "__main__":
    sys.exit(fill(*map(Path, sys.argv[1:])) if sys.argv[1:] else main())
