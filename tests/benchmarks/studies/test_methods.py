"""The study of methods: its plan, the rule of tuning, verdicts, power; at a tiny size it runs and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_1samp

from benchmarks.report import paired
from benchmarks.studies.methods import __main__ as methods
from benchmarks.studies.methods import report
from benchmarks.studies.methods.plan import (
    HYPOTHESES,
    PARTS,
    RATES,
    choose_rates,
    list_methods,
    list_trainings,
    list_tuning,
    load_recipe,
)
from benchmarks.studies.methods.power import find_detectable_difference
from benchmarks.studies.methods.records import Piece, Student, Study
from compress.errors import CompressError
from compress.records import Accuracy, Scores, SeedScore, read, save


def student(label: str, hits: int, validation: int = 50, *, seeds: int = 3) -> Student:
    """Return a student with so many of 100 test and validation images right."""
    each = tuple(
        SeedScore(
            seed=seed,
            validation=Accuracy.from_hits(validation, 100),
            accuracy=Accuracy.from_hits(hits, 100),
            correct=paired.pack(np.roll(np.arange(100) < hits, seed)),
        )
        for seed in range(seeds)
    )
    return Student(label=label, scores=Scores(network=label, method=label, seeds=each), parameters=1234, seconds=2.0)


def piece(part: str, kind: str, lr: float, *students: Student) -> Piece:
    return Piece.model_validate({
        "name": f"{part}-{kind}-{lr}", "part": part, "kind": kind, "optimizer": "sgd", "lr": lr, "students": students,
        "images": {"train": 200, "test": 100}, "steps": 30,
    })  # fmt: skip


def study(*pieces: Piece) -> Study:
    return Study(command="python -m ...", source="abc", pieces=pieces)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_recipe_with_the_methods_of_its_hypotheses(part: str) -> None:
    """What is claimed is trained, in the part for which it is claimed; plain training is in all of them."""
    known = list_methods(load_recipe(part))
    assert "supervised" in known
    assert {label for each in HYPOTHESES if each.part == part for label in (each.this, each.other)} <= set(known)


def test_the_rate_is_chosen_by_validation_alone() -> None:
    """The highest mean on the validation split, of equal ones the smaller rate; all rates must have been tried."""
    tried = [
        piece("a", "tuning", lr, student("kd", hits, right), student("dist", 90, 60))
        for lr, hits, right in zip(RATES["sgd"], (99, 10, 50), (40, 70, 60), strict=True)
    ]
    assert choose_rates(tried, "a") == {"kd": 0.05, "dist": 0.02}
    with pytest.raises(CompressError, match="2 learning rates of 3 were tried"):
        choose_rates(tried[:2], "a")


def test_methods_are_trained_at_the_recipes_rate_and_at_their_own() -> None:
    """All of them together first, then those that chose another rate, each group with it."""
    loaded, labels = load_recipe("c"), ("dih-dist", "supervised", "dist")
    tuning = list(list_tuning("c", loaded, labels, seeds=3))
    assert [(task.recipe.train.lr, task.recipe.train.epochs, task.recipe.data.train_images) for task in tuning] == [
        (lr, 8, 10_000) for lr in RATES["sgd"]
    ]
    rates = {"dih-dist": 0.05, "supervised": 0.1, "dist": 0.1}
    default, own = list_trainings("c", loaded, labels, rates, seeds=3)
    assert (default.labels, default.recipe.train.lr, default.seeds) == (labels, 0.05, (0, 1, 2))
    assert (own.labels, own.recipe.train.lr) == (("supervised", "dist"), 0.1)
    assert [section.name for section in own.recipe.method] == ["supervised"]


def test_a_part_that_is_not_tuned_trains_all_methods_once() -> None:
    """What is asked is what a default gives: all have the part's learning rate and optimizer."""
    loaded, labels = load_recipe("d-adamw"), ("dist", "supervised")
    assert not [*list_tuning("d-adamw", loaded, labels, seeds=3)]
    (only,) = list_trainings("d-adamw", loaded, labels, {}, seeds=3)
    assert (only.kind, only.labels, only.seeds) == ("default", labels, (0, 1, 2))
    assert (only.recipe.train.optimizer, only.recipe.train.lr) == (PARTS["d-adamw"].optimizer, PARTS["d-adamw"].lr)


def test_hypotheses_have_verdicts() -> None:
    """Confirmed and refuted by both intervals, undecided between, not run before both methods were."""
    found = study(piece("a", "default", 0.05, student("supervised", 50), student("kd", 80), student("kd-standardised", 80),
                        student("dist", 52), student("dih-dist", 95), student("dih-kd", 80)))  # fmt: skip
    verdicts = {each.name: report.judge(found, each) for each in HYPOTHESES}
    assert verdicts == {
        "H1": "confirmed", "H2": "refuted", "H3": "undecided", "H4": "confirmed", "H5": "confirmed", "H6": "confirmed",
        "H7": "not run", "H8": "not run", "H9": "not run", "H10": "not run", "H11": "not run", "H12": "not run",
    }  # fmt: skip
    text = report.render(found)
    assert "| H2 | correlations are better than divergences | dist against kd, part a | −28.0" in text
    assert "| supervised | 0.05 | 50.0" in text


def test_power_is_what_a_simulation_finds() -> None:
    """The smallest difference that Student's t finds four times in five, by drawing studies."""
    draws = np.random.default_rng(0)
    for seeds in (3, 5):
        difference = find_detectable_difference(0.7, seeds)
        drawn = draws.normal(difference, 0.7, size=(20_000, seeds))
        found = (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
        assert found == pytest.approx(0.8, abs=0.015)  # five standard errors


@pytest.mark.slow
def test_at_a_tiny_size_it_runs_and_goes_on(tmp_path: Path, time_once: None) -> None:
    """Digits instead of CIFAR: tuning, then the default; --minutes 0 stops before a piece, and the same command goes on."""
    arguments = [
        "--part", "c", "--only", "dist", "--only", "supervised", "--seeds", "1",
        "--set", "data={source: digits, image_size: 8, train_images: 150, validation_fraction: 0.1}",
        "--set", "teacher={model: resnet_cifar.resnet8, train: {epochs: 8}}", "--set", "train.epochs=1",
        "--set", "measure={seconds: 0.1, rounds: 5, launches: 1}",
        "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(methods.main, [*arguments, "--minutes", "0"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / report.RESULT).exists()
    done = CliRunner().invoke(methods.main, arguments)
    assert done.exit_code == 0, done.output
    found = read(tmp_path / "out" / report.RESULT, Study)
    assert [each.kind for each in found.pieces][:4] == ["tuning", "tuning", "tuning", "default"]
    assert all({one.label for one in each.students} == {"dist", "supervised"} for each in found.pieces[:4])
    assert all(one.scores.seeds[0].calibration is not None for each in found.pieces for one in each.students)
    save(tmp_path / "out" / report.RESULT, found.model_copy(update={"source": "another"}))
    refused = CliRunner().invoke(methods.main, arguments)
    assert refused.exit_code == 2
    assert "numbers of two versions are not mixed" in refused.output
