"""The torture study: in small numbers it runs here, so that what it looks for is looked for at every change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies.torture import report
from benchmarks.studies.torture.artefacts import Artefact, try_artefact
from benchmarks.studies.torture.damage import DAMAGES
from benchmarks.studies.torture.recipes import LONG, TINY, mutate, try_recipe
from benchmarks.studies.torture.records import Torture
from compress.errors import CompressError
from compress.records import read


@pytest.mark.parametrize("text", [TINY, LONG])
def test_the_recipes_that_are_mutated_are_good(text: str, tmp_path: Path) -> None:
    """Else every mutation would be refused for the same reason."""
    assert try_recipe(text.encode(), tmp_path) == "planned"


@given(seed=st.integers(0, 1 << 32))
def test_a_mutated_recipe_is_planned_or_refused_in_words(seed: int) -> None:
    """Whatever somebody types, compress plans it or says what is wrong with it."""
    assert try_recipe(mutate(Random(seed)), Path("/nowhere")) in {"planned", "refused"}


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "empty"])
def test_every_kind_of_damage_damages(name: str) -> None:
    """A damage that changes nothing would prove nothing; each number gives the same damage again."""
    content = b"top1 97.25, of 450 images" * 3
    found = {DAMAGES[name](content, Random(seed)) for seed in range(20)}
    assert found != {content}
    assert found == {DAMAGES[name](content, Random(seed)) for seed in range(20)}


def test_what_is_used_silently_is_a_fault(tmp_path: Path) -> None:
    """A reader that believes whatever it finds is found out, where a checksum should have told; one that refuses is not."""
    path = tmp_path / "x"
    path.write_text("97.25 %")

    def refuse(path: Path) -> str:
        if path.read_bytes() != b"97.25 %":
            raise CompressError("damaged")
        return "whole"

    def stumble(path: Path) -> float:
        return float(path.read_bytes()[:5])

    random = Random(1)
    found = {
        name: {try_artefact(Artefact(path, read, is_sealed), random) for _ in range(40)}
        for name, read, is_sealed in (
            ("believes", Path.read_bytes, True), ("foreign", Path.read_bytes, False), ("refuses", refuse, True),
            ("stumbles", stumble, False),
        )
    }  # fmt: skip
    assert "fault: used silently" in found["believes"]
    assert "read otherwise, and nothing could tell" in found["foreign"]
    assert found["refuses"] <= {"refused", "read as it was written"}
    assert any(each.startswith("fault: ValueError") for each in found["stumbles"])
    assert path.read_text() == "97.25 %"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and watches what files are opened")
def test_a_small_study_finds_nothing_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Runs that are killed again and again, sabotaged results and damaged artefacts: nothing lost, silent or left over."""
    for kills in (1, 3):  # of a folder each, with up to five kills
        arguments = ["--kills", str(kills), "--recipes", "0", "--artefacts", "100", "--sabotages", "4", "--seed", "1"]
        places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.studies.torture", *arguments, *places],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        found = read(tmp_path / "out" / report.RESULT, Torture)
        assert done.returncode == 0, [part.outcomes for part in found.parts]
    tried = {part.kind: part.tried for part in found.parts}
    assert tried["kills"] >= 3
    assert tried | {"kills": 0} == {"kills": 0, "recipes": 0, "artefacts": 100, "sabotages": 4}
    assert "sabotages: a file of a finished run" in (tmp_path / "out" / report.REPORT).read_text()
