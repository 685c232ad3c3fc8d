"""The data that the workers of a search share is deleted, also after a search that was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest

from delorean.tuning import workers


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _share_and_die() -> None:
    with workers._own_folder() as folder:
        (folder / "train").mkdir()
        (folder / "train" / "features.npy").write_bytes(b"0" * 1_000)
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_next_search_deletes_the_data_of_one_that_was_killed_and_of_no_other(temporary: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_share_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (abandoned,) = temporary.iterdir()
    other = temporary / "delorean-tuning-without-a-lock"
    other.mkdir()
    linked = temporary / "delorean-tuning-linked"
    with workers._own_folder() as alive:
        linked.symlink_to(abandoned)
        workers.remove_abandoned()
        assert set(temporary.iterdir()) == {alive, other, linked}
    workers.remove_abandoned()
    assert set(temporary.iterdir()) == {other, linked}
