"""Train the students of all seeds, and find the images that each classifies correctly.

What seeds share and in what they differ is described in `compress.plan.seeds`.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import paired
from compress.data import Split
from compress.fingerprint import describe_training, make_key
from compress.plan.names import name_baselines
from compress.recipe import MethodSection, Recipe
from compress.records import Accuracy, Scores, SeedScore
from compress.run.context import Run, Trained
from compress.run.stage import label_stage
from compress.run.students import train_student
from compress.run.verify import SplitLogits, compute_logits
from compress.system.files import writable

CORRECT, SEEDS = "correct.npz", "seeds"


class CorrectImages(NamedTuple):
    """Which images one trained network classifies correctly."""

    network: str
    method: str
    seed: int
    validation: NDArray[np.bool_]
    """Of the validation split, [N]."""
    test: NDArray[np.bool_]
    """Of the test split, [N]."""


class FurtherSeeds(NamedTuple):
    """Results of the seeds after the first."""

    correct: tuple[CorrectImages, ...]
    seconds: Mapping[str, float]
    """How long each stage took, by its key."""


def split_by_seed(run: Run, seeds: Sequence[int]) -> list[Run]:
    """Return the run of each seed, and take away the folders of seeds that an earlier run had and this has not.

    Raises:
        Unreachable: The folder cannot be written.
    """
    folder = run.folder / SEEDS
    shown = {str(seed) for seed in seeds[1:]}
    with writable(folder):
        for path in folder.glob("*"):
            if path.is_dir() and path.name not in shown:
                shutil.rmtree(path)
        if folder.is_dir() and not shown:
            folder.rmdir()
    places = [run.folder, *(folder / str(seed) for seed in seeds[1:])]
    return [replace(run, seed=seed, students=place) for seed, place in zip(seeds, places, strict=True)]


def list_students(recipe: Recipe) -> list[tuple[str, Sequence[MethodSection]]]:
    """Return the students of one seed, each with its methods: the one that is shipped, then every baseline."""
    return [("student", recipe.method), *zip(name_baselines(recipe.baselines), recipe.baselines, strict=True)]


def train_students(run: Run, teachers: Sequence[Trained]) -> list[Trained]:
    """Train the student that is shipped, then every baseline, with the run's seed."""
    return [train_student(run, name, methods, teachers) for name, methods in list_students(run.recipe)]


def train_further_seeds(runs: Sequence[Run], teachers: Sequence[Trained]) -> FurtherSeeds:
    """Train students and baselines of further seeds; their networks are not kept in memory."""
    correct: list[CorrectImages] = []
    seconds: dict[str, float] = {}
    for run in runs:
        for trained in train_students(run, teachers):
            correct.append(_obtain_correct_images(run, trained))
            seconds |= {result.key: result.seconds for result in trained.results}
    return FurtherSeeds(tuple(correct), seconds)


def find_correct_images(run: Run, trained: Trained, logits: SplitLogits) -> CorrectImages:
    """Find the images that a network classifies correctly by its logits."""
    splits = (run.data.validation, run.data.test)
    right = (found.argmax(axis=1) == split.labels for found, split in zip(logits, splits, strict=True))
    return CorrectImages(trained.name, trained.method, run.seed, *right)


def _obtain_correct_images(run: Run, trained: Trained) -> CorrectImages:
    """Return the images that a network classifies correctly: found in the cache, or computed and kept there."""
    key = make_key(
        network=trained.key, data=[run.data.key, run.data.test_key], engine=dict(describe_training()), what="correct"
    )

    def make(folder: Path) -> None:
        alone = trained._replace(network=copy.deepcopy(trained.network)).move_to_cpu()  # parts that others use stay there
        found = find_correct_images(run, alone, compute_logits(run, alone))
        np.savez(folder / CORRECT, validation=found.validation, test=found.test)

    what = f"scores of {label_stage(run, trained.name)}"
    with np.load(run.cache.make(key, what, make) / CORRECT, allow_pickle=False) as file:
        return CorrectImages(trained.name, trained.method, run.seed, file["validation"], file["test"])


def collect_scores(run: Run, correct: Sequence[CorrectImages]) -> tuple[Scores, ...]:
    """Return the scores of each network over its seeds, in order of first appearance."""
    networks = dict.fromkeys((each.network, each.method) for each in correct)
    return tuple(
        Scores(
            network=network, method=method, seeds=tuple(_make_score(run, each) for each in correct if each.network == network)
        )
        for network, method in networks
    )


def _make_score(run: Run, images: CorrectImages) -> SeedScore:
    return SeedScore(
        seed=images.seed,
        validation=_count(images.validation, run.data.validation, run),
        accuracy=_count(images.test, run.data.test, run),
        correct=paired.pack(images.test),
    )


def _count(correct: NDArray[np.bool_], split: Split, run: Run) -> Accuracy:
    """Return the accuracy on a split, given which of its images are right, [N]."""
    counts = (np.bincount(labels, minlength=len(run.data.classes)).tolist() for labels in (split.labels[correct], split.labels))
    return Accuracy.from_counts(*counts)


def describe_seeds(run: Run, scores: Sequence[Scores]) -> tuple[str, ...]:
    """Return the note of the report on several seeds; nothing for one seed."""
    seeds = next([score.seed for score in each.seeds] for each in scores if each.network == "student")
    if len(seeds) == 1:
        return ()
    listed, shared = ", ".join(map(str, seeds)), f"one data split and the teachers of seed {run.recipe.seed} for all"
    chosen = f"Seed {seeds[0]}, the first, is exported, gated and timed, whatever its accuracy."
    return (f"Seeds {listed}: other initial weights, another order of batches; {shared}. {chosen}",)
