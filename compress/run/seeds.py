"""Train the students of all seeds, and judge each on every image.

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

from benchmarks.report import paired
from compress import records
from compress.fingerprint import describe_training, hash_sources, make_key
from compress.plan.names import name_baselines
from compress.recipe import MethodSection, Recipe
from compress.records import Calibration, Scores, SeedScore
from compress.run.context import Run, Trained
from compress.run.stage import label_stage
from compress.run.students import train_student
from compress.run.verify import SplitLogits, compute_logits
from compress.system.files import writable
from compress.tasks import Tallies
from compress.training.evaluate import measure_calibration

TALLIES, CALIBRATION, SEEDS = "tallies.npz", "calibration.json", "seeds"


class JudgedImages(NamedTuple):
    """How one trained network did on each image: a row of the task's numbers."""

    network: str
    method: str
    seed: int
    validation: Tallies
    """Of the validation split, [N, S]."""
    test: Tallies
    """Of the test split, [N, S]."""
    calibration: Calibration | None
    """On the test split; `None` where the task has no one score for an image."""


class FurtherSeeds(NamedTuple):
    """Results of the seeds after the first."""

    judged: tuple[JudgedImages, ...]
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
    judged: list[JudgedImages] = []
    seconds: dict[str, float] = {}
    for run in runs:
        for trained in train_students(run, teachers):
            judged.append(_obtain_judged_images(run, trained))
            seconds |= {result.key: result.seconds for result in trained.results}
    return FurtherSeeds(tuple(judged), seconds)


def judge_images(run: Run, trained: Trained, logits: SplitLogits) -> JudgedImages:
    """Judge a network on each image by its logits."""
    splits = (run.data.validation, run.data.test)
    validation, test = (run.data.task.tally(found, split.labels) for found, split in zip(logits, splits, strict=True))
    calibration = measure_calibration(logits, (run.data.validation.labels, run.data.test.labels), run.data.task)
    return JudgedImages(trained.name, trained.method, run.seed, validation, test, calibration)


def _obtain_judged_images(run: Run, trained: Trained) -> JudgedImages:
    """Return how a network did on each image: found in the cache, or computed and kept there."""
    key = make_key(
        network=trained.key,
        data=[run.data.key, run.data.test_key],
        engine=dict(describe_training()),
        what="tallies",
        source=hash_sources("compress/statistics/calibration.py", "compress/records/metrics.py"),
    )

    def make(folder: Path) -> None:
        alone = trained._replace(network=copy.deepcopy(trained.network)).move_to_cpu()  # parts that others use stay there
        found = judge_images(run, alone, compute_logits(run, alone))
        np.savez(folder / TALLIES, validation=found.validation, test=found.test)
        if found.calibration is not None:
            records.save(folder / CALIBRATION, found.calibration)

    what = f"scores of {label_stage(run, trained.name)}"
    folder = run.cache.make(key, what, make)
    calibration = records.read(folder / CALIBRATION, Calibration) if (folder / CALIBRATION).is_file() else None
    with np.load(folder / TALLIES, allow_pickle=False) as file:
        return JudgedImages(trained.name, trained.method, run.seed, file["validation"], file["test"], calibration)


def collect_scores(run: Run, judged: Sequence[JudgedImages]) -> tuple[Scores, ...]:
    """Return the scores of each network over its seeds, in order of first appearance."""
    networks = dict.fromkeys((each.network, each.method) for each in judged)
    return tuple(
        Scores(
            network=network,
            method=method,
            task=run.data.task.name,
            seeds=tuple(_make_score(run, each) for each in judged if each.network == network),
        )
        for network, method in networks
    )


def _make_score(run: Run, images: JudgedImages) -> SeedScore:
    return SeedScore(
        seed=images.seed,
        validation=run.data.task.measure(images.validation, len(run.data.classes)),
        accuracy=run.data.task.measure(images.test, len(run.data.classes)),
        **paired.pack_scores(run.data.task, images.test),
        calibration=images.calibration,
    )


def describe_seeds(run: Run, scores: Sequence[Scores]) -> tuple[str, ...]:
    """Return the note of the report on several seeds; nothing for one seed."""
    seeds = next([score.seed for score in each.seeds] for each in scores if each.network == "student")
    if len(seeds) == 1:
        return ()
    listed, shared = ", ".join(map(str, seeds)), f"one data split and the teachers of seed {run.recipe.seed} for all"
    chosen = f"Seed {seeds[0]}, the first, is exported, gated and timed, whatever its accuracy."
    return (f"Seeds {listed}: other initial weights, another order of batches; {shared}. {chosen}",)
