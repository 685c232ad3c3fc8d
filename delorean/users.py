"""Who runs this process, for records of what people decide."""

from __future__ import annotations

import getpass
import os


def current_user() -> str:
    """Return the name of the user; of one without a name, as in many containers, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
