"""Runs the command line: `python -m delorean`, and `spark-submit delorean/__main__.py`."""

import sys
from pathlib import Path

# spark-submit puts this folder first on the path, where our modules' names would hide others'.
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

from delorean.cli import main  # noqa: E402  # the path comes first

if __name__ == "__main__":
    main()
