"""The notebooks run from top to bottom, and what is committed is what they print."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SAME = ("read_a_report",)
"""Those that print the same everywhere, because they train nothing."""
SHORTER = {
    "teacher.train.epochs=12": "teacher.train.epochs=3",
    "--set train.epochs=12": "--set train.epochs=1",
    "resnet_cifar.resnet14": "resnet_cifar.resnet8",
    "--set measure.seconds=1": (
        "--set measure.seconds=0.2 --set measure.launches=1 --set measure.against=student --set method.0.heads_epochs=1"
    ),
    "TrainSection(epochs=12": "TrainSection(epochs=3",
    '"heads_epochs": 5': '"heads_epochs": 1',
}
"""What the cells are made shorter by; what they print is then not compared."""


def heed_commands(source: str) -> str:
    """Return a cell that fails where one of its commands does; by themselves neither `!` nor a pipe would."""
    lines = []
    for line in source.splitlines():
        if line.startswith("!"):
            lines += [re.sub(r" \| (?:head|tail) -n \d+$", "", line), "assert _exit_code == 0, _exit_code"]
        else:
            lines.append(line)
    return "\n".join(lines)


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
    for cell in notebook.cells if path.stem not in SAME else ():
        for text, shorter in SHORTER.items():
            cell.source = cell.source.replace(text, shorter)
        cell.source = heed_commands(cell.source) if cell.cell_type == "code" else cell.source
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    if path.stem in SAME:
        assert collect_text(notebook) == committed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_command_that_fails_is_noticed() -> None:
    """A cell whose command fails, or one behind a pipe, ends the test, as one whose Python raises."""
    for source in ("!false", "!ls /nowhere | tail -n 3", "1 / 0"):
        cells = [nbformat.v4.new_code_cell(heed_commands(source))]
        with pytest.raises(CellExecutionError, match=r"AssertionError|ZeroDivisionError"):
            NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300, kernel_name="python3").execute()
    assert heed_commands("!true\nx = 1") == "!true\nassert _exit_code == 0, _exit_code\nx = 1"


def test_committed_outputs_have_no_traceback() -> None:
    """What is committed went well when it was executed."""
    for path in NOTEBOOKS:
        assert "Traceback" not in path.read_text(encoding="utf-8"), path


def test_what_is_made_shorter_is_there() -> None:
    """Each text that the test replaces stands in a notebook, so that none trains its full length unnoticed."""
    cells = "".join(cell.source for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells)
    assert [text for text in SHORTER if text not in cells] == []
