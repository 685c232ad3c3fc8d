"""Installs requirements.lock into the environment that runs this, or another lock into another one; checks every hash.

uv needs a fifth of pip's time. Where uv cannot be installed, or fails (at a private index with an unusual login, say),
pip installs the same. The Makefile runs `.venv/bin/python .ci/install.py`, which installs this project too, and
`.venv/bin/python .ci/install.py .venv-airflow dags/requirements.lock`, whose packages are all wheels.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

LOCK = Path("requirements.lock")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = Path(sys.executable).with_name("uv")
CHECKED = ["--require-hashes", "--no-build-isolation"]  # pyspark is built by the setuptools of the lock


def pinned(name: str, lock: str) -> str:
    """Return a package's lines of a lock: its version and its hashes; "" if the lock does not have it."""
    return "".join(re.findall(rf"^{name}==.*\n(?:\s.*\n)*", lock, flags=re.MULTILINE))


def pip_install(requirements: str, python: str = sys.executable) -> bool:
    """Install lines of a lock with pip into the environment of a Python; return whether that succeeded."""
    command = [python, *PIP[1:], "install", "-q", "--no-deps", *CHECKED, "-r", "/dev/stdin"]
    return subprocess.run(command, input=requirements, text=True, check=False).returncode == 0


def uv_environment() -> dict[str, str]:
    """Return environment variables that give uv pip's configuration: indexes, folders of wheels, certificates."""
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


def uv_install(lock: Path, python: str) -> bool:
    """Give an environment exactly the packages of a lock, with uv; return whether that succeeded."""
    if not pip_install(pinned("uv", LOCK.read_text())):
        return False
    command = [str(UV), "pip", "sync", "-q", "--python", python, *CHECKED, str(lock)]
    return subprocess.run(command, env=uv_environment(), check=False).returncode == 0


def main(environment: str = ".venv", lock: Path = LOCK) -> int:
    """Install a lock; into .venv also this project, editable."""
    text, python, is_ours = lock.read_text(), f"{environment}/bin/python", lock == LOCK
    print(f"installing {text.count('==')} packages into {environment}, once …", flush=True)
    if is_ours and not pip_install(pinned("setuptools", text)):
        print(
            "the package index does not answer as the lock expects → check network and `pip config list`, run again",
            file=sys.stderr,
        )
        return 1
    if not uv_install(lock, python):
        print("uv failed; pip takes over, which takes some minutes", file=sys.stderr)
        if not pip_install(text.replace(pinned("uv", text), ""), python):
            return 1
    # A folder on the path, not an import hook: the hook takes each Python that starts, here or in a job, 20 ms.
    plain = ["--config-settings", "editable_mode=compat"]
    editable = [*PIP, "install", "-q", "--no-deps", "--no-build-isolation", *plain, "-e", "."]
    return subprocess.run(editable, check=False).returncode if is_ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])) if sys.argv[1:] else main())
