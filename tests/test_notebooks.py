"""Every notebook runs from top to bottom, over a small demo's project."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def project(demo, tmp_path):
    """The folder of notebooks, the demo's project where they look for it."""
    shutil.copytree(demo.folder, tmp_path / ".demo" / "latest", ignore=shutil.ignore_patterns("logs", "package"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, project):
    notebook = nbformat.read(path, as_version=4)
    ran = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(project)}}).execute()
    last = [cell for cell in ran.cells if cell.cell_type == "code"][-2]
    assert last.outputs[0].output_type == "execute_result"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_committed(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
