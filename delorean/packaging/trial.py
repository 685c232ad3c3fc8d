"""Tries a package of unknown origin in a process of its own, with bounded memory and time, before this one loads it.

A small file can unpack to any size, and a small model can make much of little: what neither does in the trial it does
not do later either, for the sizes of what a model computes depend on nothing but its input's shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MODEL = "model.onnx"
ROWS = 64  # that are scored at a time
_MEBIBYTE = 1 << 20
_MEMORY = 1024 * _MEBIBYTE  # beyond what the libraries take, and in proportion to the package
_PROCESSOR_SECONDS = 10
_PATIENCE_SECONDS = 120.0  # of the clock: a busy machine gives a process little of its processors
_passed: set[str] = set()


def try_package(files: Mapping[str, bytes], width: int) -> str | None:
    """Load a model and Arrow files in a process of its own, score some rows, and say what went wrong.

    files: name → content; the model is `model.onnx`, all others are Arrow files
    width: features that the model must take
    """
    digest = hashlib.sha256(str(width).encode())
    for name, data in sorted(files.items()):
        digest.update(f"{name}:{len(data)}:".encode() + data)
    if digest.hexdigest() in _passed:
        return None
    total = sum(map(len, files.values()))
    seconds = _PROCESSOR_SECONDS + total // (8 * _MEBIBYTE)
    told = {
        "files": {name: len(data) for name, data in files.items()},
        "width": width,
        "memory": _MEMORY + 8 * total,
        "seconds": seconds,
    }
    problem = _run(json.dumps(told).encode() + b"\n" + b"".join(files.values()), seconds)
    if problem is None:
        _passed.add(digest.hexdigest())
    return problem


def _run(content: bytes, seconds: int) -> str | None:
    command = [sys.executable, "-P", "-s", "-X", "utf8", str(Path(__file__).resolve())]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603  # this file
            command,
            input=content,
            env=environment,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_SECONDS + seconds,
        )
    except subprocess.TimeoutExpired:
        return f"it is not loaded after {_PATIENCE_SECONDS + seconds:.0f} s"
    except OSError as error:
        return f"no process can be started to try it: {error.strerror}"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stdout:
        return done.stdout.decode(errors="replace").strip()
    if done.returncode == -signal.SIGXCPU:
        return f"it needs more than {seconds} s of a processor to be loaded and to score {ROWS} rows"
    return f"loading it ended a process with {done.returncode}, for want of memory perhaps"


# What follows runs in the process of the trial, which imports nothing of ours.


def _main() -> None:
    import numpy as np
    import onnxruntime
    import pyarrow as pa

    onnxruntime.disable_telemetry_events()
    told = json.loads(sys.stdin.buffer.readline())
    files = {name: sys.stdin.buffer.read(size) for name, size in told["files"].items()}
    name = ""
    try:
        _limit(told["memory"], told["seconds"])
        for name in files:
            if name == MODEL:
                continue
            table = pa.ipc.open_file(pa.BufferReader(files[name])).read_all()
            table.validate(full=True)
            del table
        name = MODEL
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.load_model_format", "ONNX")
        session = onnxruntime.InferenceSession(files[MODEL], options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 2:
            rows = np.zeros((ROWS, told["width"]), dtype=np.float32)
            session.run([session.get_outputs()[-1].name], {inputs[0].name: rows})
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is the answer
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        sys.stdout.write(f"{name}: {line}")
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)


def _limit(memory: int, seconds: int) -> None:
    """Bound what this process may take from now on."""
    import resource

    taken = 0
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _main()
