"""Machine code at rest is used only for exactly what it was made of, and never from where others can write."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import DataMaps, FeatureModel, feature_encoder
from encoders.compilation.code_cache import code_name
from encoders.compilation.compile import OPTIONS, compile_batch
from encoders.library.keys import VIDEO_ID
from schemas.errors import ConfigError

ROOT = Path(__file__).parents[3]
TEXT = "def go(out):\n    out[0] = 1.0 / 3.0\n"
ENCODE = """
import os, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from encoders import DataMaps, FeatureModel
from encoders.compilation.code_cache import default_cache_folder
from encoders.library.keys import VIDEO_ID, VIEWING_HISTORY
from encoders.library import minutes_watched, rewatching
from encoders.data_map import Element
history = Element(pa.array([[dict(video_id=1, minutes=2.0, watched_at=0)]], VIEWING_HISTORY.type), np.array([0]))
time = pa.array([0], pa.timestamp("us", "UTC"))
items = pa.table(dict(video_id=[1]))
maps = DataMaps(pa.table(dict(time=time)), items, np.array([0, 1]), dict(viewing_history=history))
warm = FeatureModel([rewatching]).bind([], [VIDEO_ID])
warm.kept.folder.append(None)
warm.encode(maps)  # so that all is imported before another user, who may not read this Python, takes over
if {user} is not None:
    os.setgid({user}); os.setuid({user})
print(FeatureModel([minutes_watched]).bind([], [VIDEO_ID], {folder}).encode(maps)["minutes_watched"].tolist())
"""


def encode(home: Path | None, user: int | None = None, folder: Path | None = None, **more: str) -> tuple[str, str]:
    """Encode in another process, maybe as another user: give what it printed and what it complained of."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment |= {"PYTHONPATH": str(ROOT), **more} | ({} if home is None else {"HOME": str(home)})
    text = textwrap.dedent(ENCODE).format(user=user, folder=None if folder is None else repr(str(folder)))
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    return done.stdout.strip(), done.stderr


def test_the_name_of_code_covers_all_that_decides_it() -> None:
    names = {
        code_name(TEXT, ("float64[w]",), OPTIONS),
        code_name(TEXT + "\n", ("float64[w]",), OPTIONS),
        code_name(TEXT, ("float32[w]",), OPTIONS),
        code_name(TEXT, ("float64[w]",), {**OPTIONS, "boundscheck": False}),
        code_name(TEXT, ("float64[w]",), {**OPTIONS, "fastmath": True}),
    }
    assert len(names) == 5
    assert code_name(TEXT, ("float64[w]",), dict(reversed(OPTIONS.items()))) in names


@pytest.mark.parametrize("changed", ["numba.__version__", "numpy.__version__", "sys.version", "our rules"])
def test_the_name_of_code_covers_versions_and_our_own_rules(changed: str) -> None:
    script = f"""
import importlib, sys, numba, numpy, encoders.compilation.code_cache as cache
{"" if "rules" in changed else changed + " = 'another'"}
{"cache._own_rules = lambda: 'other rules'" if "rules" in changed else ""}
print(cache.code_name({TEXT!r}, ("float64[w]",), {{}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != code_name(TEXT, ("float64[w]",), {})


def test_code_that_is_not_whole_is_compiled_anew(tmp_path: Path) -> None:
    out = np.zeros(1)
    compile_batch(TEXT, ["float64[w]"], "go", tmp_path)(out)
    (file,) = tmp_path.glob("*.nbc")
    file.write_bytes(file.read_bytes()[:-1])
    script = f"""
import numpy as np
from pathlib import Path
from encoders.compilation.compile import compile_batch
out = np.zeros(1)
compile_batch({TEXT!r}, ["float64[w]"], "go", Path({str(tmp_path)!r}))(out)
print(out[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == str(1 / 3), done.stderr


def test_without_a_home_that_can_be_written_to_encoders_are_compiled_all_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    for place in (home, Path("/nowhere"), None):
        found, output = encode(place, 65534 if os.getuid() == 0 else None)
        assert found == "[2.0]", output
    assert list(home.iterdir()) == []


def test_a_home_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / ".cache" / "delorean" / "encoders"
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    found, output = encode(tmp_path)
    assert found == "[2.0]", output
    assert list(cache.iterdir()) == []


def test_numbas_own_cache_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir(mode=0o777)
    (tmp_path / "home").mkdir()
    found, output = encode(tmp_path / "home", NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    assert found == "[2.0]", output
    assert list((tmp_path / "numba").iterdir()) == []
    assert [path.suffix for path in (tmp_path / "home/.cache/delorean/encoders").iterdir()] == [".nbc"]


def test_a_folder_of_ones_own_that_is_read_only_is_read(
    tmp_path: Path, data_maps: Callable[..., DataMaps], define: Callable[..., dict[str, Any]]
) -> None:
    source = '@feature_encoder(features=["f"])\ndef f(context, items, data, out):\n    out.f[:] = 4.0\n'
    encoder = define(source, feature_encoder=feature_encoder)["f"]
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    found = FeatureModel([encoder]).bind([], [VIDEO_ID], folder).encode(data_maps([0], [[1]]))
    assert found["f"].tolist() == [4.0]


def test_the_folder_is_a_setting_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "delorean.toml").write_text('index = "i.db"\nstorage = "s"\nencoder_cache = "compiled"\n')
    script = f"""
from delorean import open_project
from encoders import FeatureModel
from encoders.library import listed
from encoders.library.keys import VIDEO_ID
open_project({str(tmp_path)!r})
FeatureModel([listed]).bind([], [VIDEO_ID]).warm_up()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in (tmp_path / "compiled").iterdir()] == [".nbc"]


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(ConfigError, match="others can write to it → chmod 700"):
        compile_batch(TEXT, ["float64[w]"], "go", tmp_path / "open")


def test_code_with_addresses_of_its_process_is_not_kept(tmp_path: Path) -> None:
    text = "import numpy as np\nLARGE = np.arange(200_000.0)\ndef go(out):\n    out[0] = LARGE[3]\n"
    out = np.zeros(1)
    compile_batch(text, ("float64[w]",), "go", tmp_path)(out)
    assert out.tolist() == [3.0]
    assert list(tmp_path.iterdir()) == []


RECURSIVE = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from encoders import DataMaps, FeatureModel, feature_encoder
from encoders.library.keys import VIDEO_ID

def alone(n):
    return 0 if n <= 0 else 1 + alone(n - 1)

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

@feature_encoder(features=["depth", "parity"])
def recursive(context, items, data, out):
    out.depth[0] = alone(3)
    out.parity[0] = 1.0 if even(4) else 0.0

times = pa.table(dict(time=pa.array([0], pa.timestamp("us", "UTC"))))
maps = DataMaps(times, pa.table(dict(video_id=[1])), np.array([0, 1]), {})
bound = FeatureModel([recursive]).bind([], [VIDEO_ID], Path(sys.argv[1]))
print({name: values.tolist() for name, values in bound.encode(maps).items()})
"""


def test_code_that_calls_itself_is_compiled_by_each_process(tmp_path: Path) -> None:
    script, cache = tmp_path / "recursive.py", tmp_path / "cache"
    script.write_text(RECURSIVE)
    for _ in range(2):  # the second found the first's code in the cache, and crashed
        command = [sys.executable, str(script), str(cache)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
        assert (done.returncode, done.stdout.strip()) == (0, "{'depth': [3.0], 'parity': [1.0]}"), done.stderr
