"""Loads an untrusted package in a separate process with bounded memory and time, before this process loads it.

A small file can decompress to any size, and a small model can compute large tensors. A package that passes the trial
stays within its bounds later too, because the sizes of a model's tensors depend only on the shape of its input.
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

ROWS = 64  # scored at a time
_MEBIBYTE = 1 << 20
_MEMORY = 1024 * _MEBIBYTE  # besides what the libraries take, and a multiple of the package's size
_PROCESSOR_SECONDS = 10
_PATIENCE_SECONDS = 120.0  # wall time: a busy machine gives a process little processor time
_passed: set[str] = set()


def try_package(files: Mapping[str, bytes], width: int) -> str | None:
    """Load a model and Arrow files in a separate process and score some rows. Return what went wrong, or None.

    files: name → content; those that end with `.onnx` are models, all others are Arrow files
    width: features that the model must take
    """
    digest = hashlib.sha256(str(width).encode())
    for name, data in sorted(files.items()):
        digest.update(f"{name}:{len(data)}:".encode() + data)
    if digest.hexdigest() in _passed:
        return None
    total = sum(map(len, files.values()))
    seconds = _PROCESSOR_SECONDS + total // (8 * _MEBIBYTE)
    limits = {
        "files": {name: len(data) for name, data in files.items()},
        "width": width,
        "memory": _MEMORY + 8 * total,
        "seconds": seconds,
    }
    problem = _run(json.dumps(limits).encode() + b"\n" + b"".join(files.values()), seconds)
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
        return f"it was not loaded within {_PATIENCE_SECONDS + seconds:.0f} s"
    except OSError as error:
        return f"no process can be started to try it: {error.strerror}"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stdout:
        return done.stdout.decode(errors="replace").strip()
    if done.returncode == -signal.SIGXCPU:
        return f"loading it and scoring {ROWS} rows needs more than {seconds} s of processor time"
    return f"the process that loaded it ended with {done.returncode}, perhaps out of memory"


# The rest runs in the trial's process, which imports nothing of this project.


def _main() -> None:
    import numpy as np
    import onnxruntime
    import pyarrow as pa

    onnxruntime.disable_telemetry_events()
    limits = json.loads(sys.stdin.buffer.readline())
    files = {name: sys.stdin.buffer.read(size) for name, size in limits["files"].items()}
    name = ""
    try:
        _limit(limits["memory"], limits["seconds"])
        for name in files:
            if not name.endswith(".onnx"):
                table = pa.ipc.open_file(pa.BufferReader(files[name])).read_all()
                table.validate(full=True)
                del table
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.load_model_format", "ONNX")
        for name in files:
            if name.endswith(".onnx"):
                session = onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
                inputs = session.get_inputs()
                if len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 2:
                    rows = np.zeros((ROWS, limits["width"]), dtype=np.float32)
                    session.run([session.get_outputs()[-1].name], {inputs[0].name: rows})
    except BaseException as error:  # noqa: BLE001  # any error is the trial's result
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        sys.stdout.write(f"{name}: {line}")
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)


def _limit(memory: int, seconds: int) -> None:
    """Bound the memory and processor time that this process may use from now on."""
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
