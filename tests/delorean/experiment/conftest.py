"""An experiment over snapshots at rest, with encoders of its own."""

import pytest
from experiment_lab import Lab

from snapshotter.index import open_index


@pytest.fixture
def lab(tmp_path, request, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = "lab_encoders_" + "".join(letter for letter in request.node.name if letter.isalnum())
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield Lab(tmp_path, index, module)
