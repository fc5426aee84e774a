"""On which images each trained network is right: what every comparison of methods and seeds starts from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import paired
from compress import delivery, stages
from compress.delivery import Answers
from compress.records import Accuracy, Score, Scores
from compress.training import Trained, Work

CORRECT = "correct.npz"


class Scored(NamedTuple):
    """One trained network, and on which images it is right."""

    network: str
    method: str
    seed: int
    validation: NDArray[np.bool_]
    """[N] of the validation split."""
    test: NDArray[np.bool_]


def of_answers(work: Work, trained: Trained, said: Answers) -> Scored:
    """Return the score of a network whose logits are known."""
    data = work.data
    right = (answers.argmax(axis=1) == split.labels for answers, split in zip(said, (data.validation, data.test), strict=True))
    return Scored(trained.name, trained.method, work.seed, *right)


def of_network(work: Work, trained: Trained) -> Scored:
    """Return the score of a network of a further seed, which is neither exported nor kept in memory; found in the cache."""
    key = stages.key(
        network=trained.key, data=[work.data.key, work.data.test_key], engine=dict(stages.engine()), what="correct"
    )

    def make(folder: Path) -> None:
        alone = trained._replace(network=copy.deepcopy(trained.network))  # what it shares with others stays where it is
        scored = of_answers(work, alone, delivery.answers(work, alone))
        np.savez(folder / CORRECT, validation=scored.validation, test=scored.test)

    with np.load(work.cache.make(key, make) / CORRECT, allow_pickle=False) as file:
        return Scored(trained.name, trained.method, work.seed, file["validation"], file["test"])


def scores(scored: Sequence[Scored]) -> tuple[Scores, ...]:
    """Return the same as records, the seeds of each network together."""
    networks = dict.fromkeys((each.network, each.method) for each in scored)
    return tuple(
        Scores(network=network, method=method, seeds=tuple(_score(each) for each in scored if each.network == network))
        for network, method in networks
    )


def _score(scored: Scored) -> Score:
    return Score(
        seed=scored.seed,
        validation=Accuracy.of(int(scored.validation.sum()), len(scored.validation)),
        accuracy=Accuracy.of(int(scored.test.sum()), len(scored.test)),
        correct=paired.pack(scored.test),
    )
