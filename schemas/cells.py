"""Names notebook cells as IPython shows them."""

from __future__ import annotations

import sys
from typing import Any


def cell_name(file: str) -> str | None:
    """The cell whose code has this file name, as `cell In[7]`; None for a file that is no cell of this process."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    named = None if shell is None else shell.compile.format_code_name(file)
    return None if named is None else f"cell {named[1]}"
