"""One bucket, through a real proxy, without Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prana_proxy.config.services_file import gateway_config
from prana_proxy.gateway.config import GatewayConfig
from prana_proxy.server import start_proxy
from schemas.errors import ProxyUnavailableError
from schemas.services import Service, Status
from schemas.tables import contexts_schema, snapshot_schema
from snapshotter.capture.capture_task import CaptureResult, CaptureTask, ProxyAddresses
from snapshotter.capture.service_capture import ServiceCapture
from snapshotter.capture.value_profile import sums_of
from snapshotter.records import from_micros
from snapshotter.storage.local import LocalStorage
from snapshotter.storage.parquet import read_parquet, write_parquet

PROFILES = range(100)
FOLDER = "snapshots/history/r1"


class DeadError(Exception):
    """What ends an attempt."""


@dataclass
class Attempts:
    """Attempts at bucket 3 of a service."""

    company: Any
    storage: LocalStorage
    services: dict[str, Service]
    task: CaptureTask

    def run(
        self, keys: Any = PROFILES, tell: Callable[[int, int], None] = lambda *_: None, **options: Any
    ) -> CaptureResult:
        captured = ServiceCapture(replace(self.task, **options), 3, self.keys(keys), tell).run()
        assert captured is not None
        return captured

    def keys(self, keys: Any) -> pa.Table:
        schema = contexts_schema(self.task.service.key)
        rows = [key if isinstance(key, tuple) else (key,) for key in keys]
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        return pa.Table.from_arrays(columns, schema=schema)

    def die(self, after: int, **options: Any) -> list[int]:
        """Let an attempt die after so many contexts; gives the profiles that it has left on disk."""

        def tell(done: int, planned: int) -> None:
            if done >= after:
                raise DeadError

        with pytest.raises(DeadError):
            self.run(tell=tell, **options)
        return sorted(row["profile_id"] for path in self.files() for row in self.read(path))

    def files(self) -> list[str]:
        return [file.path for file in self.storage.list("snapshots")]

    def read(self, path: str) -> list[dict[str, Any]]:
        with self.storage.open_input(path) as file:
            return pq.read_table(file).to_pylist()

    def rows(self, captured: CaptureResult) -> list[dict[str, Any]]:
        [file] = captured.files
        table = read_parquet(self.storage, file)
        assert table.schema == snapshot_schema(self.task.service)
        assert captured.sums == sums_of(table["value"].combine_chunks())
        times = table["captured_at"].cast(pa.int64()).to_pylist()
        assert (captured.first, captured.last) == (from_micros(min(times)), from_micros(max(times)))
        assert captured.counts[Status.OK] == file.rows == table.num_rows
        return table.to_pylist()

    def profiles(self, captured: CaptureResult) -> list[int]:
        return [row["profile_id"] for row in self.rows(captured)]

    def asked(self) -> Counter[int]:
        return Counter(int(path.rsplit("/", 1)[1]) for path in self.company.asked)


@pytest.fixture
def attempts(company: Any, storage: LocalStorage) -> Iterator[Attempts]:
    with start_proxy(company.config()) as proxy:
        proxies = ProxyAddresses((proxy.address,))
        with proxies.client() as client:
            services = client.services()
        task = CaptureTask(services["history"], proxies, storage.uri, FOLDER, 16, timedelta(seconds=60), 60.0, False)
        yield Attempts(company, storage, services, task)


def test_a_bucket_captured_in_one_go_is_one_file_and_nothing_more(attempts: Attempts) -> None:
    captured = attempts.run()
    assert attempts.files() == [captured.files[0].path]
    assert captured.files[0].path.startswith(f"{FOLDER}/00003-")
    assert captured.files[0].bucket == 3
    assert attempts.profiles(captured) == list(PROFILES)


def test_answers_are_kept_as_they_come_and_merged_into_one_sorted_file(attempts: Attempts) -> None:
    captured = attempts.run(keep_seconds=0.0)
    assert len(attempts.files()) == 1 + 100 // 16 + 1  # a part for each page, and all of them merged
    rows = attempts.rows(captured)
    assert [row["profile_id"] for row in rows] == list(PROFILES)
    assert all(
        [video["video_id"] for video in row["value"]] == [row["profile_id"] + i for i in range(row["profile_id"] % 3)]
        for row in rows
    )


@pytest.mark.parametrize("keep_seconds", [0.0, 60.0])
def test_what_an_attempt_has_captured_is_never_asked_again(attempts: Attempts, keep_seconds: float) -> None:
    left = attempts.die(after=50, keep_seconds=keep_seconds)
    assert left == list(range(64))
    reported: list[tuple[int, int]] = []
    captured = attempts.run(tell=lambda *state: reported.append(state))
    assert attempts.profiles(captured) == list(PROFILES)
    assert captured.counts == {Status.OK: 100}
    assert attempts.asked() == dict.fromkeys(PROFILES, 1)
    assert reported[0] == (64, 100)
    assert reported[-1] == (100, 100)


def test_a_whole_file_of_an_earlier_attempt_is_written_anew_so_that_no_vacuum_takes_it(attempts: Attempts) -> None:
    first = attempts.run()
    again = attempts.run()
    assert attempts.rows(again) == attempts.rows(first)
    assert again.files[0].path != first.files[0].path
    assert attempts.asked() == dict.fromkeys(PROFILES, 1)


def test_what_failed_is_asked_again_by_the_next_attempt(attempts: Attempts) -> None:
    attempts.company.failing = {4: "error"}
    first = attempts.run()
    assert first.counts == {Status.OK: 90, Status.ERROR: 10}
    attempts.company.failing = {}
    again = attempts.run()
    assert again.counts == {Status.OK: 100}
    assert again.reasons == {}
    assert attempts.profiles(again) == list(PROFILES)
    assert attempts.asked() == {profile: 2 if profile % 10 == 4 else 1 for profile in PROFILES}


def test_two_attempts_at_once_never_give_a_key_twice(attempts: Attempts) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: attempts.run(keep_seconds=0.0), range(2)))
    assert [attempts.profiles(captured) for captured in both] == [list(PROFILES)] * 2
    asked = len(attempts.company.asked)
    third = attempts.run()
    assert attempts.profiles(third) == list(PROFILES)
    assert len(attempts.company.asked) == asked


def test_keys_of_others_in_the_same_bucket_are_left_alone(attempts: Attempts) -> None:
    attempts.run(range(50, 150))
    captured = attempts.run(range(100))
    assert attempts.profiles(captured) == list(range(100))
    assert attempts.asked() == dict.fromkeys(range(150), 1)


def test_keys_of_several_variables_are_compared_value_by_value(attempts: Attempts) -> None:
    attempts.task = replace(attempts.task, service=attempts.services["my_list"])
    attempts.run([(1, "FR"), (2, "FR"), (2, "US")])
    captured = attempts.run([(1, "FR"), (1, "US"), (2, "US")])
    assert [(row["profile_id"], row["country"]) for row in attempts.rows(captured)] == [
        (1, "FR"),
        (1, "US"),
        (2, "US"),
    ]
    assert Counter(attempts.company.asked) == dict.fromkeys(["/list/FR/1", "/list/FR/2", "/list/US/2", "/list/US/1"], 1)


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "no Parquet", "another schema"])
def test_a_part_that_cannot_be_trusted_is_told_of_and_asked_again(attempts: Attempts, how: str) -> None:
    [part] = attempts.run(range(50)).files
    data = bytearray((attempts.storage.root / part.path).read_bytes())
    values = pq.read_metadata(attempts.storage.root / part.path).row_group(0).column(3)
    data[values.data_page_offset + values.total_compressed_size - 1] ^= 1
    other = pa.table({"profile_id": [1], "value": [1.5]})
    if how == "another schema":
        attempts.storage.delete([part.path])
        write_parquet(attempts.storage, part.path, other, other.schema)
    else:
        spoilt = {"truncated": data[: len(data) // 2], "flipped": data, "empty": b"", "no Parquet": b"PAR1" * 9}[how]
        (attempts.storage.root / part.path).write_bytes(spoilt)
    captured = attempts.run()
    assert attempts.profiles(captured) == list(PROFILES)
    assert attempts.asked() == {profile: 2 if profile < 50 else 1 for profile in PROFILES}
    [note] = captured.notes
    assert note.startswith(f"captured earlier, but not used: '{part.path}' ")


def test_a_service_whose_type_has_changed_is_asked_again(attempts: Attempts) -> None:
    attempts.run()
    with start_proxy(history_of(attempts.company, "list<struct<video_id: int64>>")) as proxy:
        proxies = ProxyAddresses((proxy.address,))
        with proxies.client() as client:
            attempts.task = replace(attempts.task, service=client.services()["history"], proxies=proxies)
        captured = attempts.run()
    assert attempts.profiles(captured) == list(PROFILES)
    assert "has another schema" in captured.notes[0]
    assert attempts.asked() == dict.fromkeys(PROFILES, 2)


def history_of(company: Any, type_: str) -> GatewayConfig:
    """The history as by other types, and without what its usual configuration overrides."""
    url = company.url + "/history/{profile_id}"
    return gateway_config({"services": {"history": {"type": type_, "key": {"profile_id": "int64"}, "url": url}}})


def test_a_second_pass_waits_until_a_breaker_lets_calls_through_again(attempts: Attempts) -> None:
    attempts.company.failing = dict.fromkeys(range(10), "error")

    def heal(done: int, planned: int) -> None:
        if len(attempts.company.asked) >= 20:
            attempts.company.failing = {}

    with start_proxy(history_of(attempts.company, str(attempts.task.service.element.type))) as proxy:
        captured = attempts.run(tell=heal, second_pass=True, proxies=ProxyAddresses((proxy.address,)))
    assert captured.counts == {Status.OK: 100}
    assert sum(attempts.asked().values()) < 200  # while the breaker was open nobody was asked


def test_a_proxy_that_goes_away_loses_nothing(attempts: Attempts) -> None:
    with start_proxy(attempts.company.config()) as proxy:

        def tell(done: int, planned: int) -> None:
            if done >= 30:
                proxy.stop()

        with pytest.raises(ProxyUnavailableError):
            attempts.run(tell=tell, proxies=ProxyAddresses((proxy.address,)))
    assert attempts.profiles(attempts.run()) == list(PROFILES)
    assert attempts.asked() == dict.fromkeys(PROFILES, 1)


@pytest.mark.parametrize("keep_seconds", [0.0, 60.0])
def test_a_second_pass_asks_once_more_for_what_failed_and_the_last_answer_counts(
    attempts: Attempts, keep_seconds: float
) -> None:
    attempts.company.failing = {2: "once", 3: "error", 4: "invalid"}
    reported: list[tuple[int, int]] = []
    captured = attempts.run(second_pass=True, keep_seconds=keep_seconds, tell=lambda *state: reported.append(state))
    invalid = sum(profile % 10 == 4 and profile % 3 > 0 for profile in PROFILES)
    assert captured.counts == {Status.OK: 90 - invalid, Status.ERROR: 10, Status.INVALID: invalid}
    assert set(captured.reasons) == {Status.ERROR, Status.INVALID}
    assert attempts.profiles(captured) == sorted(attempts.profiles(captured))
    assert attempts.asked() == {profile: 2 if profile % 10 in (2, 3) else 1 for profile in PROFILES}
    assert (80, 100) in reported  # those that will be asked again are not done yet
    assert reported[-1] == (100, 100)
    assert reported == sorted(reported)


def test_of_a_status_that_nobody_has_in_the_end_there_is_no_reason(attempts: Attempts) -> None:
    attempts.company.failing = {2: "once"}
    captured = attempts.run(second_pass=True)
    assert (captured.counts, captured.reasons) == ({Status.OK: 100}, {})


def test_without_a_second_pass_each_context_is_asked_once(attempts: Attempts) -> None:
    attempts.company.failing = {2: "once"}
    captured = attempts.run()
    assert captured.counts == {Status.OK: 90, Status.ERROR: 10}
    assert attempts.asked() == dict.fromkeys(PROFILES, 1)


def test_a_service_that_gives_nothing_at_all_is_asked_a_second_time_by_one_call_only(attempts: Attempts) -> None:
    attempts.company.failing = dict.fromkeys(range(10), "error")
    captured = attempts.run(second_pass=True)
    assert captured.counts == {Status.ERROR: 100}
    assert captured.files == []
    assert attempts.asked() == {profile: 2 if profile == 0 else 1 for profile in PROFILES}
    assert attempts.files() == []
