"""Several seeds of one recipe: what they share, in what they differ, and what a run with them leaves behind."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.report import paired
from compress import recipe
from compress.cli.commands import program
from compress.errors import CompressError, Interrupted
from compress.events import Events
from compress.plan import seeds
from compress.plan.plan import make_plan
from compress.records import Manifest, Report, StageResult, read
from compress.run import pipeline

QUICK = ("baselines=[kd]", "method={name: dih, heads_epochs: 1}", "measure.seconds=0.1")
"""A preparatory stage that belongs to the teacher, one baseline, and nothing that takes long."""


@given(st.integers(1, seeds.LIMIT), st.integers(0, 10**9))
def test_a_number_counts_from_the_recipes_seed(count: int, base: int) -> None:
    """`3` is the recipe's seed and the two after it, so that one seed is the run that there always was."""
    assert seeds.parse_seeds(str(count), base=base) == tuple(range(base, base + count))
    assert seeds.parse_seeds(None, base=base) == (base,)


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=6, unique=True), st.integers(0, 10))
def test_a_list_is_taken_as_it_stands(numbers: list[int], base: int) -> None:
    """The order is the user's, and the first is the one that is shipped."""
    assert seeds.parse_seeds(",".join(map(str, numbers)), base=base) == tuple(numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "0 seeds train no student"),
        ("-1", "-1 is negative"),
        ("1,-2", "-2 is negative"),
        ("1,1", "1 is named more than once"),
        ("x", "'x' is neither a number of seeds nor a list"),
        ("1.5", "'1.5' is neither"),
        ("", "'' is neither"),
        ("1,", "'1,' is neither"),
        ("²", "'²' is neither"),
        ("1000", "1000 would train every student 1000 times"),
        (",".join(map(str, range(101))), "names 101 seeds; 100 are the most"),
    ],
)
def test_other_seeds_are_refused_in_one_sentence(recipe_path: Path, text: str, said: str) -> None:
    """What cannot be meant is one message with what to give instead, exit code 2, and nothing is begun."""
    for command in ("run", "check"):
        done = invoke(command, recipe_path, "--seeds", text, "--runs", recipe_path.parent / "runs")
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (recipe_path.parent / "runs").exists()
    with pytest.raises(CompressError):
        seeds.parse_seeds(text, base=0)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="compress")


@pytest.fixture
def recipe_path(tmp_path: Path, tiny_recipe: str) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe, encoding="utf-8")
    return path


def test_check_counts_the_students_of_every_seed(recipe_path: Path) -> None:
    """The plan has three times the work of students and baselines, once that of the teacher, and says who is shipped."""
    once, thrice = (
        json.loads(invoke("check", recipe_path, "--json", *more).stdout) for more in ((), ("--seeds", "3"))
    )  # fmt: skip
    for before, after in zip(once["stages"], thrice["stages"], strict=True):
        times = 3 if before["name"] in ("student", "supervised") else 1
        for field in ("trained", "teacher") if before["work"] else ():
            assert after["work"][field] == times * before["work"][field]
    assert "seeds 1, 2, 3" in thrice["notes"][-1]
    assert "3 seeds × 1 epoch ×" in invoke("check", recipe_path, "--seeds", "3").stdout
    assert invoke("check", recipe_path, "--seeds", "3").stderr.endswith("tiny.yaml --seeds 3\n")


class Stopping(Events):
    """Stops a run at the first event that has these fields."""

    def __init__(self, text: io.StringIO | None = None, **fields: object) -> None:
        super().__init__(console=Console(file=text or io.StringIO(), width=200))
        self.fields = fields

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)
        if self.fields.items() <= {"event": event, **fields}.items():
            raise Interrupted("stopped by the test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


Run = Callable[..., Report]


@pytest.fixture
def run(runs: Path, tiny_recipe: str, time_once: None) -> Run:
    """Run the quick recipe with some seeds."""

    def go(*chosen: int, overrides: tuple[str, ...] = QUICK, events: Events | None = None, where: Path = runs) -> Report:
        parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", overrides)
        return pipeline.run(parsed, base=where, runs=where, events=events or Events(), seeds=chosen)

    return go


@pytest.fixture(scope="module")
def answer(runs: Path, tiny_recipe: str, time_once: None) -> Result:
    """What the command answered for `--seeds 2,1` of a recipe with seed 1."""
    (runs / "tiny.yaml").write_text(tiny_recipe, encoding="utf-8")
    done = invoke("run", runs / "tiny.yaml", "--seeds", "2,1", "--runs", runs, "--json", *(f"--set={each}" for each in QUICK))
    assert done.exit_code == 0, done.stderr
    return done


def keys(folder: Path) -> dict[str, str]:
    """Return the key of each stage that a folder shows."""
    return {path.parent.name: read(path, StageResult).key for path in sorted(folder.glob("*/metrics.json"))}


@pytest.mark.slow
def test_seeds_share_data_teacher_and_heads_and_train_their_own_students(answer: Result, runs: Path) -> None:
    """One teacher, one set of heads and one split serve all seeds; each student and baseline has other weights."""
    report, folder = Report.model_validate_json(answer.stdout), runs / "tiny"
    first, second = keys(folder), keys(folder / "seeds" / "1")
    assert set(first) == {"teacher", "heads", "student", "kd"}
    assert set(second) == {"student", "kd"}
    assert all(first[name] != second[name] for name in second)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    made = [(event["stage"], event["seed"]) for event in events if event["event"] == "stage" and not event["found"]]
    assert made == [("teacher", 1), ("heads", 1), ("student", 2), ("kd", 2), ("student", 1), ("kd", 1)]
    assert {each.network: [score.seed for score in each.seeds] for each in report.scores} == {
        "teacher": [1], "student": [2, 1], "kd": [2, 1],
    }  # fmt: skip
    assert {score.validation.samples for each in report.scores for score in each.seeds} == {report.images["validation"]}
    assert {score.accuracy.samples for each in report.scores for score in each.seeds} == {report.images["test"]}
    one, two = (paired.unpack(score) for score in report.scores[1].seeds)
    assert not np.array_equal(one, two)


@pytest.mark.slow
def test_the_first_seed_is_shipped_and_the_report_says_so(answer: Result, runs: Path) -> None:
    """The one JSON document is the report; rows and bundle are of the first seed, and every method stands against another."""
    report, folder = Report.model_validate_json(answer.stdout), runs / "tiny"
    own = next(row.accuracy for row in report.variants if row.name == "student-torch-fp32")
    assert report.scores[1].seeds[0].accuracy == own
    assert any("Seed 2, the first, is exported" in note for note in report.notes)
    assert read(folder / "bundle" / "manifest.json", Manifest).provenance["seed"] == "2"
    assert [(each.this, each.other, each.seeds) for each in report.paired] == [("student", "kd", 2), ("student", "teacher", 2)]
    assert "images and 2 seeds" in invoke("report", folder).stdout
    compared = json.loads(invoke("compare", folder, folder, "--json").stdout)
    assert [(each["verdict"], each["points"]) for each in compared["paired"]] == [("not distinguishable", 0)]


@pytest.mark.slow
def test_one_seed_of_many_is_the_run_that_there_would_be_without_the_others(
    answer: Result, run: Run, runs: Path, tmp_path: Path
) -> None:
    """Rows, gates and stages do not depend on how many seeds follow; all is found again, and folders of no seed disappear."""
    several = Report.model_validate_json(answer.stdout)
    own = shutil.copytree(runs, tmp_path / "runs", symlinks=True)  # other tests read what this one changes
    before = keys(own / "tiny") | {"other": keys(own / "tiny" / "seeds" / "1")["student"]}
    text = io.StringIO()
    alone = run(2, events=Events(console=Console(file=text, width=200)), where=own)
    assert text.getvalue().count("found in the cache") == 4
    assert (alone.variants, alone.gates, alone.stages) == (several.variants, several.gates, several.stages)
    assert [each.seeds[0] for each in alone.scores] == [each.seeds[0] for each in several.scores]
    assert alone.seconds < several.seconds
    assert not (own / "tiny" / "seeds").exists()
    with pytest.raises(Interrupted):
        run(1, 3, events=Stopping(event="stage", stage="student", seed=1), where=own)
    after = keys(own / "tiny")
    assert (after["teacher"], after["heads"], after["student"]) == (before["teacher"], before["heads"], before["other"])


SPY = '''
"""DIH whose finished heads are put into its report.

Trained: as dih.
Frozen: as dih.
Shipped: as dih.
Stages: heads, student
Source: this test
"""

from compress.methods.dih import Dih
from compress.records import Analysis


class Spy(Dih):
    """Dih, watched.

    Args:
        setting: Student, teachers, an image, the number of classes.
    """

    def __init__(self, setting):
        super().__init__(setting, heads_epochs=1)

    def analyse(self, train, validation):
        parts = (self.heads_stage.product(), self.student)
        sums = [sum(float(value.double().sum()) for value in part.state_dict().values()) for part in parts]
        return (Analysis(title="sums", columns=("heads", "student"), rows=(tuple(map(repr, sums)),)),)
'''


@pytest.mark.slow
def test_every_seed_is_taught_by_the_trained_heads(run: Run, install: Callable[..., None], tmp_path: Path) -> None:
    """What belongs to the teacher is in place when a further seed's student is trained, and not only shown beside it."""
    install("methods", "spy", SPY)
    (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")
    stopping = Stopping(event="stage", stage="student", seed=2)
    with pytest.raises(Interrupted):
        run(1, 2, overrides=("name=spied", "method=spy"), events=stopping, where=tmp_path)
    folders = (tmp_path / "spied", tmp_path / "spied" / "seeds" / "2")
    found = [read(folder / "student" / "metrics.json", StageResult).analyses[0].rows[0] for folder in folders]
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


@pytest.mark.slow
def test_an_interrupted_run_continues_with_the_seed_that_it_was_at(
    answer: Result, run: Run, runs: Path, tmp_path: Path
) -> None:
    """Stopped in the second seed and started again, it finds what was done and ends with the weights of an undisturbed run."""
    with pytest.raises(Interrupted):
        run(2, 1, events=Stopping(event="epoch", stage="kd, seed 1"), where=tmp_path)
    assert keys(tmp_path / "tiny" / "seeds" / "1").keys() == {"student"}
    text = io.StringIO()
    with pytest.raises(Interrupted):  # what follows is the same for one seed
        run(2, 1, events=Stopping(text, event="stage", stage="kd", seed=1), where=tmp_path)
    assert text.getvalue().count("found in the cache") == 6  # all but the baseline of the second seed
    for name in ("student", "kd"):
        weights = Path("tiny") / "seeds" / "1" / name / "weights.safetensors"
        assert (tmp_path / weights).read_bytes() == (runs / weights).read_bytes()


@pytest.mark.slow
def test_a_plan_of_one_seed_is_the_plan(tiny_recipe: str, tmp_path: Path) -> None:
    """Nothing is added for a single seed."""
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml")
    planned = make_plan(parsed, base=tmp_path, runs=tmp_path)
    assert seeds.repeat_students(planned, (7,)) == planned
