"""The examples in the docstrings of what users import run as they stand."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks
import compress
import exporters

SHOWN = [
    *(getattr(compress, name) for name in ("Events", "Network", "TrainSection", "distill")),
    *(getattr(exporters, name) for name in ("export", "gate", "load")),
    *(getattr(benchmarks, name) for name in ("evaluate", "find_runtime", "measure")),
]
"""What does something; records and errors are shown by what returns or raises them."""


@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN, ids=lambda each: each.__name__)
def test_the_example_runs(shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each public function and class shows how it is used, and what it shows is what it does."""
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(shown, shown.__name__, globs={})
    assert example.examples
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("package", ["compress", "exporters", "benchmarks"])
def test_dir_shows_what_is_public(package: str) -> None:
    """`dir` and completion show every public name and load nothing heavy; each name is there."""
    program = (
        f"import sys, {package} as p; shown = [name for name in dir(p) if not name.startswith('_')];"
        "heavy = {'torch', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        "assert set(shown) == set(p.__all__), shown; [getattr(p, name) for name in shown]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
