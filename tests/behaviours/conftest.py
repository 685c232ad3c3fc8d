"""Every implementation of an interface, each behind the same small factory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from snapshotter.index import SnapshotIndex, open_index
from snapshotter.storage import Storage, open_storage

# name → gives the URI of a fresh index or storage
INDEXES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": lambda request: f"sqlite://{request.getfixturevalue('tmp_path')}/index/index.db",
    "cassandra": lambda request: request.getfixturevalue("cassandra_uri"),
}
STORAGES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "local": lambda request: f"file://{request.getfixturevalue('tmp_path')}/data",
    "s3": lambda request: request.getfixturevalue("s3").new_uri(),
}


@pytest.fixture(params=INDEXES)
def index_uri(request: pytest.FixtureRequest) -> str:
    return INDEXES[request.param](request)


@pytest.fixture
def open_one(index_uri: str) -> Iterator[Callable[[], SnapshotIndex]]:
    """Open the same index, as often as a test wants."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open_index(index_uri))


@pytest.fixture
def index(open_one: Callable[[], SnapshotIndex]) -> SnapshotIndex:
    return open_one()


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> Storage:
    return open_storage(STORAGES[request.param](request))
