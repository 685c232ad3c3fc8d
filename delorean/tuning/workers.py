"""Starts processes that search one study side by side."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from delorean.ranking_data.ranking_data import RankingData
from delorean.tuning.shared_parts import save_part
from schemas.errors import JobError

TRAIN, VALIDATION, REQUEST = "train", "validation", "request.json"
_POLL_SECONDS = 0.5
_PREFIX, _LOCK = "delorean-tuning-", "owner.lock"


def run_workers(
    module: str,
    request: bytes,
    parts: tuple[RankingData, RankingData],
    workers: int,
    progress: Callable[[], None],
) -> None:
    """Run a module in several processes until all have ended.

    They share the training and the validation part, mapped from files; they never have the test part. A worker that is
    killed costs only its trial, which another one repeats.

    module: is run as `python -m module FOLDER`; the folder has the parts and the request
    progress: called every now and then

    Raises JobError if all workers fail, with the message of one.
    """
    remove_abandoned()
    with _own_folder() as folder:
        for part, own in zip(parts, (TRAIN, VALIDATION), strict=True):
            save_part(part, folder / own)
        (folder / REQUEST).write_bytes(request)
        _wait(_start(module, folder, workers), progress, folder)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Create a temporary folder, whose lock this process holds as long as it lives, and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / "new.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "new.lock").rename(folder / _LOCK)  # only now: a lock that others see is held, or abandoned
            yield folder


def remove_abandoned() -> None:
    """Delete the temporary folders of this user's searches that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if path.parent.lstat().st_uid == os.getuid() and not path.parent.is_symlink():
                with path.open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent)
        except OSError:  # it is in use, or another search deletes it
            continue


def _start(module: str, folder: Path, workers: int) -> list[subprocess.Popen[bytes]]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    started = []
    for number in range(workers):
        with (folder / f"{number}.log").open("wb") as log:
            command = [sys.executable, "-P", "-m", module, str(folder)]
            started.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
            )
    return started


def _wait(processes: Sequence[subprocess.Popen[bytes]], progress: Callable[[], None], folder: Path) -> None:
    try:
        running = list(processes)
        while running:
            try:
                running[0].wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                progress()
            running = [process for process in running if process.poll() is None]
    except BaseException:  # of any kind, such as Ctrl-C: no worker may stay behind
        for process in processes:
            process.kill()
            process.wait()
        raise
    if all(process.returncode for process in processes):
        logs = [(folder / f"{number}.log").read_text(errors="replace").strip() for number in range(len(processes))]
        reason = next((log.splitlines()[-1] for log in logs if log), f"exit code {processes[0].returncode}")
        raise JobError.because(f"all {len(processes)} workers of the search failed: {reason}", "run it again to resume")
