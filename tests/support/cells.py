"""Runs cells in a real kernel and gives what people see below each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


@dataclass(frozen=True)
class Shown:
    """What stands below a cell.

    result: of its last expression; printed: what was written to it, by whomever; error: as IPython shows it
    number: the cell's
    """

    result: str
    printed: str
    error: str
    number: int


def run_notebook(notebook: nbformat.NotebookNode, folder: Path, **options: Any) -> nbformat.NotebookNode:
    """Run a notebook in a folder, in a kernel of its own; options are those of nbclient's NotebookClient."""
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}, **options).execute()


def run_cells(cells: Mapping[str, str], folder: Path) -> dict[str, Shown]:
    """Run cells one after the other, whatever becomes of them. cells: a name for each → its code."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(code).strip()) for code in cells.values()]
    )
    run_notebook(notebook, folder, allow_errors=True)
    return {name: _shown(cell) for name, cell in zip(cells, notebook.cells, strict=True)}


def _shown(cell: nbformat.NotebookNode) -> Shown:
    kinds = {
        kind: [out for out in cell.outputs if out.output_type == kind] for kind in ("execute_result", "stream", "error")
    }
    return Shown(
        result="".join(out["data"]["text/plain"] for out in kinds["execute_result"]),
        printed="".join(out.text for out in kinds["stream"]),
        error="\n".join(line for out in kinds["error"] for line in out.traceback),
        number=cell.execution_count,
    )
