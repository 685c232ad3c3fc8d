"""An index on a cluster of three nodes with three copies, which loses one node, then a second, and gets them back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from cassandra_server import CassandraNode
from maven import free_port

from schemas.data_keys import context_variable, service_element
from schemas.errors import SnapshotIndexError
from schemas.services import Service, Status
from snapshotter.index import SnapshotIndex, init_index, open_index
from snapshotter.records import DataFile, ServiceSnapshot, SnapshotRun

# A node syncs before it acknowledges: by default a kill may lose the last seconds.
DURABLE = {"commitlog_sync": "batch", "commitlog_sync_period": None}
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SERVICES = [
    Service(name, service_element(name, "int64"), (context_variable("profile_id", "int64"),))
    for name in ("history", "my_list", "ratings")
]
NODES_ARE_DOWN = (
    r"(has too few nodes alive: 1 of 2 needed|had answers of 1 of 2 nodes in time|did not answer in time).* → "
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CassandraNode]]:
    folder, port, storage_port = tmp_path_factory.mktemp("cluster"), free_port(*HOSTS), free_port(*HOSTS)
    nodes = [CassandraNode(folder / f"{i}", HOSTS, i, port, storage_port, DURABLE) for i in range(3)]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait()
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def run(number: int) -> SnapshotRun:
    run_id, at = f"r{number:05d}", NOON + timedelta(hours=number)

    def taken(service: Service) -> ServiceSnapshot:
        files = (DataFile(f"snapshots/{service.name}/{run_id}/00000-a.parquet", 9, 99, "0f" * 16),)
        return ServiceSnapshot(run_id, service, "profile_id", 1, {Status.OK: 9}, at, at, files, {}, {"rows": 9.0})

    return SnapshotRun(run_id, "2026-01-05-abc", NOON, tuple(taken(service) for service in SERVICES))


class Work:
    """Publishes one run after the other and reads each back, until it is stopped; then raises what failed."""

    def __init__(self, index: SnapshotIndex, first: int) -> None:
        self._index = index
        self._first = first
        self._published: list[int] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()

    @contextmanager
    def going_on(self) -> Iterator[Callable[[int], None]]:
        """Work in threads within the block; give a function that waits for so many more runs, or for a failure."""
        with ThreadPoolExecutor(2) as threads:
            working = [threads.submit(self._publish), threads.submit(self._look)]

            def wait(more: int) -> None:
                with self._changed:
                    enough = len(self._published) + more
                    self._changed.wait_for(lambda: len(self._published) >= enough or any(w.done() for w in working))

            try:
                yield wait
            finally:
                self._stop.set()
            for done in working:
                done.result()

    @property
    def published(self) -> list[int]:
        return list(self._published)

    def _publish(self) -> None:
        try:
            for number in count(self._first):
                if self._stop.is_set():
                    return
                assert self._index.publish_run(run(number)) is True
                with self._changed:
                    self._published.append(number)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._changed.notify_all()

    def _look(self) -> None:
        while not self._stop.is_set():
            before = self.published
            found = self._index.snapshots("history", NOON, NOON + timedelta(days=9999))
            assert {taken.run_id for taken in found} >= {f"r{number:05d}" for number in before}
            if before:
                assert self._index.run(f"r{before[-1]:05d}").services == run(before[-1]).services


def lose_another(node: CassandraNode, work: Work) -> None:
    with work.going_on() as wait_for:
        wait_for(5)
        node.kill()
        wait_for(99_999)


def test_a_cluster_goes_on_without_one_node_refuses_without_two_and_loses_nothing(nodes: list[CassandraNode]) -> None:
    port = nodes[0].port
    uri = f"cassandra://{','.join(f'{host}:{port}' for host in HOSTS)}/snapshots"
    each = [f"cassandra://{host}:{port}/snapshots" for host in HOSTS]
    with ThreadPoolExecutor(len(each)) as threads:  # all at once, each through another node
        assert sum(threads.map(lambda one: init_index(one, {"": 3}), each)) == 1
    with ExitStack() as stack:
        index = stack.enter_context(open_index(f"{uri}?patience_seconds=120"))
        hasty = stack.enter_context(open_index(f"{uri}?patience_seconds=1"))
        work, more_work = Work(index, 0), Work(hasty, 50_000)
        with work.going_on() as wait_for:
            wait_for(10)
            nodes[2].kill()
            wait_for(25)
        with pytest.raises(SnapshotIndexError, match=NODES_ARE_DOWN):
            lose_another(nodes[1], more_work)
        for ask in (
            lambda: hasty.publish_run(run(99_999)),
            lambda: hasty.snapshots("history", NOON, NOON),
            lambda: hasty.run("r00000"),
            lambda: open_index(f"{uri}?patience_seconds=1"),
        ):
            with pytest.raises(SnapshotIndexError, match=NODES_ARE_DOWN) as refused:
                ask()
            assert f"index {index.uri} " in str(refused.value)

        for node in nodes[1:]:
            node.start()
        for node in nodes[1:]:
            node.wait()
        acknowledged = [*work.published, *more_work.published]
        failed = acknowledged[-1] + 1
        seen = {found.run_id: found.services for found in index.runs()}
        assert seen == {run_id: run(int(run_id[1:])).services for run_id in seen}
        assert (
            {run(number).run_id for number in acknowledged}
            <= seen.keys()
            <= {run(number).run_id for number in [*acknowledged, failed]}
        )
        assert index.publish_run(run(failed)) is (run(failed).run_id not in seen)
        assert index.run(run(failed).run_id).services == run(failed).services
        times = [found.published_at for found in index.runs()]
        assert times == sorted(times, reverse=True)  # type: ignore[type-var]  # all are published
