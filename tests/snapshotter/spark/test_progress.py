from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_process import until

from snapshotter.spark import progress
from snapshotter.spark.progress import Board, Ear, Teller, listening

HERE = ("127.0.0.1", "127.0.0.1")
MOST = 1_000


@pytest.fixture
def board() -> Iterator[Board]:
    """A board of two services, with four tasks and with one."""
    with Board(HERE, [4, 1]) as board:
        yield board


def heard(board: Board, service: int = 0) -> tuple[int, int]:
    wait_for_datagrams(board)
    board.listen()
    return board.heard(service, MOST)


def wait_for_datagrams(board: Board) -> None:
    """On loopback a datagram is there when `send` has returned; be sure all the same."""
    if board._socket is not None:
        select.select([board._socket], [], [], 0.05)


def tell(board: Board, task: int, done: int, planned: int, service: int = 0) -> None:
    with closing(Teller(board.ear, service, task, lambda _: None)) as teller:
        teller.tell(done, planned)


def test_a_board_that_has_heard_nothing_knows_only_the_most(board: Board) -> None:
    assert heard(board) == (0, MOST)


def test_the_total_is_scaled_up_until_every_task_has_begun_and_exact_then(board: Board) -> None:
    tell(board, 0, 0, 10)
    assert heard(board) == (0, 40)
    tell(board, 1, 20, 20)
    assert heard(board) == (20, 60)
    tell(board, 2, 0, 0)
    tell(board, 3, 0, 7)
    assert heard(board) == (20, 37)
    assert heard(board, service=1) == (0, MOST)


def test_a_task_that_is_repeated_does_not_go_back(board: Board) -> None:
    tell(board, 0, 10, 10)
    tell(board, 0, 0, 10)
    assert heard(board) == (10, 40)


def test_each_context_is_counted_once_whether_or_not_anybody_hears(board: Board) -> None:
    counted: list[int] = []
    for ear in (None, board.ear, Ear("127.0.0.1", 1, "x")):
        counted.clear()
        with closing(Teller(ear, 0, 0, counted.append)) as teller:
            for done in (5, 5, 7, 20):
                teller.tell(done, 20)
        assert sum(counted) == 20


def test_what_was_told_just_before_is_not_told_again_except_the_last(board: Board) -> None:
    with closing(Teller(board.ear, 1, 0, lambda _: None)) as teller:
        for done in range(101):
            teller.tell(done, 100)
    datagrams = []
    assert board._socket is not None
    while select.select([board._socket], [], [], 0.05)[0]:
        datagrams.append(json.loads(board._socket.recv(512)))
    assert len(datagrams) < 50
    assert (datagrams[0]["done"], datagrams[-1]["done"]) == (0, 100)


GOOD = {"service": 0, "task": 0, "done": 3, "planned": 10}
BAD: list[Any] = [
    {"token": "of another run"},
    {"token": "é"},
    {"token": 5},
    {"service": 2},
    {"service": -1},
    {"task": 4},
    {"task": -1},
    {"done": -1},
    {"done": 11},
    {"done": "3"},
    {"planned": 2**40},
    {"planned": 10**30, "done": 10**29},
    {"more": 1},
    {"token": "x" * 600},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_datagrams_that_are_not_of_this_run_or_make_no_sense_are_dropped(board: Board, change: dict[str, Any]) -> None:
    assert board.ear is not None
    send(board, json.dumps({"token": board.ear.token, **GOOD, **change}).encode())
    assert heard(board) == (0, MOST)
    send(board, json.dumps({"token": board.ear.token, **GOOD}).encode())
    assert heard(board) == (3, 40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=700))
def test_noise_changes_nothing(board: Board, noise: bytes) -> None:
    send(board, noise)
    board.listen()
    assert board.heard(0, MOST) == (0, MOST)


@pytest.mark.parametrize("host", [None, ("192.0.2.1", "192.0.2.1")])
def test_where_nobody_can_listen_nothing_is_heard_and_nothing_fails(host: tuple[str, str] | None) -> None:
    with Board(host, [1]) as board:
        assert board.ear is None
        tell(board, 0, 1, 1)
        assert heard(board) == (0, MOST)


def test_runs_do_not_know_each_others_tokens(board: Board) -> None:
    with Board(HERE, [4, 1]) as other:
        assert board.ear is not None
        assert other.ear is not None
        with closing(Teller(replace(board.ear, token=other.ear.token), 0, 0, lambda _: None)) as teller:
            teller.tell(1, 1)
    assert heard(board) == (0, MOST)


def send(board: Board, data: bytes) -> None:
    assert board.ear is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, (board.ear.host, board.ear.port))


def test_progress_goes_on_after_a_report_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LISTEN_SECONDS", 0.01)
    reported: list[int] = []

    def report(done: int, _: int) -> None:
        reported.append(done)
        if len(reported) == 1:
            raise BrokenPipeError  # such as a terminal that is gone

    with Board(("127.0.0.1", "127.0.0.1"), [1]) as board, listening(board, 10, report):
        teller = Teller(board.ear, 0, 0, lambda _: None)
        with closing(teller):
            teller.tell(3, 10)
            until(lambda: reported == [3])
            teller.tell(10, 10)
            until(lambda: reported == [3, 9])
