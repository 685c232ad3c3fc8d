"""Makes the stack's secrets: `python docker/make_secrets.py FOLDER`. What is there is kept.

The folder is its owner's alone. The files in it are readable, since containers read them as another user; nobody else
gets through the folder to them.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path


def make(folder: Path) -> list[str]:
    """Write the secrets that are missing; gives their names."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = []
    for together in (_s3(), _prana(), _airflow()):  # one of a pair is never made anew for an old other
        if not any((folder / name).exists() for name in together):
            for name, text in together.items():
                (folder / name).write_text(text)
                (folder / name).chmod(0o444)
                made.append(name)
    return made


def _s3() -> dict[str, str]:
    """Give one key twice: as the S3 store takes it from its environment, and as its clients read it."""
    key, secret = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    return {
        "s3_root": f"ROOT_ACCESS_KEY_ID={key}\nROOT_SECRET_ACCESS_KEY={secret}\n",
        "s3_credentials": f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n",
    }


def _prana() -> dict[str, str]:
    return {"prana_token": f"{secrets.token_urlsafe(32)}\n"}


def _airflow() -> dict[str, str]:
    return {"airflow_passwords": json.dumps({"admin": secrets.token_urlsafe(16)}) + "\n"}


if __name__ == "__main__":
    made = make(Path(sys.argv[1]))
    print(f"made {', '.join(made)}" if made else "all are there")
