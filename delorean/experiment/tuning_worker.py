"""A process that searches a study beside others: `python -m delorean.experiment.tuning_worker FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from delorean.experiment.tuning import SearchRequest, search_parts
from delorean.tuning.shared_parts import load_part
from delorean.tuning.study import Study
from delorean.tuning.workers import REQUEST, TRAIN, VALIDATION
from schemas.errors import DeloreanError


def main(folder: Path) -> int:
    """Search the study that a folder's request names, with its parts. Returns the exit code."""
    request = msgspec.json.decode((folder / REQUEST).read_bytes(), type=SearchRequest)
    try:
        study = Study(Path(request.study), request.identity, request.tuning.direction)
        try:
            search_parts(study, request, load_part(folder / TRAIN), load_part(folder / VALIDATION), lambda *_: None)
        finally:
            study.close()
    except DeloreanError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
