"""The check of a machine on which equal files are called different."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.equal_files import check_file, refuse_different, time_twice
from compress.errors import Unstable
from compress.records import Ratio
from tests.benchmarks.tiny import CHANNELS, CLASSES, SIZE, Tiny


@pytest.mark.parametrize(("faster", "refused"), [(0, False), (2, False), (3, True)])
def test_three_of_twenty_are_too_many(faster: int, refused: bool) -> None:
    """Two mistakes in twenty trials are let pass, as chance makes them; a third is said."""
    ratios = [Ratio(against="one", speedup=1.1, ci95=(1.05, 1.2), verdict="faster")] * faster
    ratios += [Ratio(against="one", speedup=1.0, ci95=(0.98, 1.02), verdict="not distinguishable")] * (20 - faster)
    answers = cycle(ratios)
    found = check_file("x", 20, lambda: next(answers))
    assert (found.different, found.covered) == (faster, 20 - faster)
    if refused:
        with pytest.raises(Unstable, match=r"called different too often \(x: 3 of 20\)"):
            refuse_different([found])
    else:
        refuse_different([found])


def test_trials_that_were_done_are_not_done_again(tmp_path: Path) -> None:
    """Each is kept as it is done, a line that was cut is none, and those of another file do not count."""
    kept, made = tmp_path / "trials.jsonl", []

    def trial() -> Ratio:
        made.append(len(made))
        return Ratio(against="one", speedup=1.0 + len(made), ci95=(0.98, 1.02), verdict="not distinguishable")

    check_file("x", 2, trial, kept)
    with kept.open("a") as file:
        file.write('{"file": "x", "rat')
    found = check_file("x", 3, trial, kept)
    assert (len(made), found.trials, found.highest) == (3, 3, 4.0)
    assert check_file("y", 1, trial, kept).lowest == 5.0


@pytest.mark.slow
def test_a_file_is_timed_under_two_names(tmp_path: Path) -> None:
    """A trial gives the ratio of one file to itself."""
    network = Tiny(np.ones((CHANNELS, CLASSES), np.float32), np.zeros((1, CHANNELS, SIZE, SIZE), np.float32), {})
    ratio = time_twice(network.write_onnx(tmp_path / "a.onnx"), "onnxruntime", network.images, seconds=0.2)
    assert ratio.against == "one"
    assert ratio.ci95[0] <= ratio.speedup <= ratio.ci95[1]
