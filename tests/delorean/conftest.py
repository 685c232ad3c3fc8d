"""Fixtures of the tests that need snapshots at rest."""

import pytest
from project_at_rest import Project

from snapshotter.index import open_index
from snapshotter.storage import open_storage


@pytest.fixture
def project(tmp_path):
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield Project(open_storage(f"file://{tmp_path}/store"), index)
