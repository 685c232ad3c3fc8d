"""Fixtures of the tests that need snapshots at rest, or a feature set to learn from."""

import pyarrow as pa
import pytest
from project_at_rest import Project
from ranking_world import make_feature_set

from snapshotter.index import open_index
from snapshotter.storage import open_storage


@pytest.fixture
def project(tmp_path):
    with open_index(f"sqlite://{tmp_path}/index.db") as index:
        yield Project(open_storage(f"file://{tmp_path}/store"), index)


@pytest.fixture(scope="session")
def feature_set() -> pa.Table:
    return make_feature_set()
