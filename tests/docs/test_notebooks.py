"""The notebooks run from top to bottom, and what is committed is what they print."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SAME = ("read_a_report",)
"""Those that print the same everywhere, because they train nothing."""


def collect_text(notebook: nbformat.NotebookNode) -> list[str]:
    return [output["text"] for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the notebook's own machinery; what a cell warns of shows in its output
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, and no committed output is of an older version."""
    assert NOTEBOOKS
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(path, 4)
    committed = collect_text(notebook)
    assert committed, f"{path} has no outputs; execute it and commit it with them"
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    if path.stem in SAME:
        assert collect_text(notebook) == committed
