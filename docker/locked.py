"""Prints the part of requirements.lock that an image needs, hashes and all: `python docker/locked.py proxy`.

Needed is what is named here, and whatever the lock says is there because of something needed ("# via").
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_GATEWAY = [
    *("aiohttp", "dnspython", "msgspec", "numpy", "py-eureka-client", "pyarrow", "thriftpy2", "uvloop", "watchfiles"),
    "click",  # the command line
]
# No image: what a cluster's workers need beside their own Spark.
_EXECUTORS = ["boto3", "msgspec", "numba", "numpy", "pandas", "pyarrow", "pyiceberg", "thrift", "xxhash"]
IMAGES = {
    "build": ["setuptools"],
    "executors": _EXECUTORS,
    # Also for training in Spark tasks, and for predictions by models that do not consist of trees.
    "executors-models": [*_EXECUTORS, "deltalake", "onnx", "onnxruntime", "xgboost-cpu"],
    "jobs": [],  # whatever setup.cfg asks for, and these extras
    "proxy": [*_GATEWAY, "prometheus-client", "thrift", "xxhash"],
    "serving": [
        *_GATEWAY,
        *("boto3", "cassandra-driver"),  # index and storage: versions of global elements
        *("fastapi", "numba", "onnx", "onnxruntime", "pandas", "uvicorn", "xxhash"),
    ],
}
_EXTRAS_OF_JOBS = ("lightgbm", "xgboost", "tuning", "tracking")


def wanted(image: str, setup: Path) -> list[str]:
    """Name the packages that an image's program imports."""
    if image != "jobs":
        return IMAGES[image]
    config = configparser.ConfigParser()
    config.read(setup)
    extras = config["options.extras_require"]
    listed = [config["options"]["install_requires"], *(extras[name] for name in _EXTRAS_OF_JOBS)]
    lines = "\n".join(listed).splitlines()
    return [re.split(r"[<>=\[]", line)[0] for line in lines if line and not line.startswith("#")]


def part(lock: str, names: Iterable[str]) -> str:
    """Give the lock's blocks of these packages and of all that came with them; a block is a pin and its hashes.

    Raises KeyError for a package that the lock does not have.
    """
    blocks = {block.split("==")[0]: block for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]}
    needed: set[str] = set()
    found = set(names)
    while found:
        needed |= found
        found = {name for name, block in blocks.items() if needed & _reasons(block)} - needed
    return "".join(blocks[name] for name in sorted(needed))


def _reasons(block: str) -> set[str]:
    """Name the packages that a block is in the lock for."""
    return set(re.findall(r"^ +#(?: via)? +(\S+)", block, flags=re.MULTILINE)) - {"via"}


if __name__ == "__main__":
    sys.stdout.write(part(Path("requirements.lock").read_text(), wanted(sys.argv[1], Path("setup.cfg"))))
