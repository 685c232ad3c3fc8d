"""What IPython shows: HTML beside text, by the names of types that are imported later or never."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from IPython.core.formatters import DisplayFormatter

import delorean
from delorean.display.ipython import register_formatters
from delorean.display.text import to_text
from encoders import FeatureModel

ALONE = """
import sys
sys.modules["IPython"] = type(sys)("IPython")
sys.modules["IPython"].get_ipython = lambda: None
import delorean
print(sorted({"pyarrow", "numba", "numpy", "rich", "encoders", "snapshotter"} & set(sys.modules)))
"""


@pytest.fixture
def shell():
    return SimpleNamespace(display_formatter=DisplayFormatter())


def test_a_described_thing_is_html_and_all_of_its_text(shell):
    delorean.load_ipython_extension(shell)
    model = FeatureModel([])
    shown, _ = shell.display_formatter.format(model)
    assert shown["text/html"].startswith('<div class="dl">')
    assert shown["text/plain"] == to_text(model)


def test_a_described_thing_within_another_is_one_line(shell):
    register_formatters(shell)
    shown, _ = shell.display_formatter.format([FeatureModel([])])
    assert shown == {"text/plain": f"[{FeatureModel([])!r}]"}


def test_importing_within_ipython_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr
