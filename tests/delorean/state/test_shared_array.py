"""Arrays that processes share: made once, mapped by all, and made by each alone where that cannot be."""

import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from proxy_process import until

from delorean.state.shared_array import share_in, shared_array

WORKER = """
import os, resource, sys, time
from pathlib import Path
import pyarrow as pa
from delorean.state import shared_array as sharing

folder, seconds, patience, largest = Path(sys.argv[1]), *map(float, sys.argv[2:])
sharing._PATIENCE_SECONDS = patience
if largest:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))

def make():
    os.close(os.open(folder / f"made-by-{os.getpid()}", os.O_CREAT))
    time.sleep(seconds)
    return pa.array([[i, None, i * 2] for i in range(20_000)])

sharing.share_in(folder)
array = sharing.shared_array("name", make)
mapped = [line.split()[4] for line in open("/proc/self/maps") if line.rstrip().endswith("delorean-name.arrow")]
print(len(array), array[7].as_py(), *set(mapped))
"""


def start(folder, seconds=0.0, patience=60.0, largest=0):
    command = [sys.executable, "-c", WORKER, str(folder), *map(str, (seconds, patience, largest))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reported(*workers):
    """What each worker has: length, an element, and the file that it has mapped, if any."""
    lines = [worker.communicate()[0].strip() for worker in workers]
    assert not any(worker.returncode for worker in workers)
    assert all(line.startswith("20000 [7, None, 14]") for line in lines), lines
    return {line.partition("]")[2].strip() for line in lines}


def makers(folder):
    return len(list(folder.glob("made-by-*")))


@pytest.fixture
def own_folder():
    yield share_in
    share_in(None)


def test_of_workers_that_come_at_once_one_makes_the_array_and_all_map_it(tmp_path):
    workers = [start(tmp_path, seconds=0.3) for _ in range(4)]
    [inode] = reported(*workers)
    assert inode == str((tmp_path / "delorean-name.arrow").stat().st_ino)
    assert makers(tmp_path) == 1
    assert reported(start(tmp_path)) == {inode}
    assert makers(tmp_path) == 1


def test_a_worker_that_is_killed_while_it_makes_the_array_leaves_that_to_the_next(tmp_path):
    first = start(tmp_path, seconds=60)
    until(lambda: makers(tmp_path) == 1, 60)
    second = start(tmp_path)
    first.kill()
    first.communicate()
    assert reported(second) == {str((tmp_path / "delorean-name.arrow").stat().st_ino)}


def test_a_worker_that_hangs_does_not_stop_another(tmp_path):
    first = start(tmp_path, seconds=1)
    until(lambda: makers(tmp_path) == 1, 60)
    first.send_signal(signal.SIGSTOP)
    assert reported(start(tmp_path, patience=0.2)) == {""}
    first.send_signal(signal.SIGCONT)
    reported(first)


def test_on_a_full_disk_each_worker_has_an_array_of_its_own(tmp_path):
    assert reported(start(tmp_path, largest=100_000), start(tmp_path, largest=100_000)) == {""}
    assert not list(tmp_path.glob("delorean-name.[!l]*"))  # nothing half written


def test_without_others_an_array_is_what_was_made(tmp_path):
    made = pa.array([1, 2])
    assert shared_array("name", lambda: made) is made


@pytest.mark.parametrize("array", [pa.array([], pa.list_(pa.int8())), pa.array([[], None, [{"a": "ä", "b": 1.5}]])])
def test_what_is_mapped_is_what_was_made(tmp_path, own_folder, array):
    own_folder(tmp_path)
    for _ in range(2):
        assert shared_array("name", lambda: array).equals(array)
