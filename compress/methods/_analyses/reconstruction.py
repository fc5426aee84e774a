"""Reconstruction error of the teachers' feature maps from those of a finished student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress import losses
from compress.data import Batch, Batches
from compress.methods._maps.translators import build_translator
from compress.records import Analysis
from compress.text import quantify

SEED, LEARNING_RATE = 0, 3e-3
"""Of an analysis: where fresh translators start, and Adam's rate. Ours."""

DISTANCES = {"scaled L1": losses.factor_l1, "squared": losses.feature_mse}
"""Of an analysis: one fresh translator is fitted for each, because the scaled one leaves the length of a map open."""


class Maps(NamedTuple):
    """The two maps that a translator stands between, of one height and width."""

    student: Tensor
    """[B, c, h, w]."""
    teacher: Tensor
    """[B, C, h, w]."""


MapsOf = Callable[[Batch], Mapping[str, Maps]]
"""Gives the maps of a batch by the name of what is compared."""


def measure_reconstruction(maps: MapsOf, train: Batches, validation: Batches, *, epochs: int) -> Analysis:
    """Return how well a finished student's maps give the teachers', through translators that are fitted for that alone.

    The analysis itself is proposed by us; all that is known of FEED's is that it reports an error of reconstruction.

    Args:
        maps: Gives the frozen maps of a batch.
        train: What the translators are fitted to; torch's random numbers are afterwards as they were before.
        validation: Held-out images.
        epochs: Passes over `train`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # the CPU's alone, on which modules are made
        fresh = {
            (name, distance): build_translator(given.student.shape[1], given.teacher.shape[1]).to(given.student.device)
            for name, given in maps(next(train.epoch(0))).items()
            for distance in DISTANCES
        }
        _fit(fresh, maps, train, epochs)
        seen, held_out = _average_distances(fresh, maps, train, epochs), _average_distances(fresh, maps, validation, 0)
    return Analysis(
        title="Reconstruction of the teachers' maps",
        note=(
            f"The student is frozen; fresh translators of its map were fitted in {quantify(epochs, 'epoch')}, one for each "
            "distance. "
            "Less is better, between students that were analysed alike. Scaled L1 compares directions alone; the squared "
            "distance is to be read against the mean square of the map."
        ),
        columns=(
            "teacher",
            *(f"{distance}, {split}" for distance in DISTANCES for split in ("training", "held out")),
            "mean square of the map, held out",
        ),
        rows=tuple(
            (
                name,
                *(f"{means[name, distance]:.4g}" for distance in DISTANCES for means in (seen, held_out)),
                f"{held_out[name, 'energy']:.4g}",
            )
            for name in dict.fromkeys(name for name, _ in fresh)
        ),
    )


Fresh = Mapping[tuple[str, str], nn.Module]


def _fit(fresh: Fresh, maps: MapsOf, train: Batches, epochs: int) -> None:
    optimizer = torch.optim.Adam([weight for each in fresh.values() for weight in each.parameters()], lr=LEARNING_RATE)
    for epoch in range(epochs):
        for batch in train.epoch(epoch):
            optimizer.zero_grad()
            torch.stack(list(_compute_distances(fresh, maps(batch)).values())).sum().backward()  # no two share a parameter
            optimizer.step()


def _compute_distances(fresh: Fresh, maps: Mapping[str, Maps]) -> dict[tuple[str, str], Tensor]:
    return {
        (name, distance): DISTANCES[distance](each(maps[name].student), maps[name].teacher)
        for (name, distance), each in fresh.items()
    }


@torch.no_grad()
def _average_distances(fresh: Fresh, maps: MapsOf, batches: Batches, epoch: int) -> dict[tuple[str, str], float]:
    """Return every distance, and the mean square of every teacher's map, averaged over images."""
    sums: dict[tuple[str, str], float] = {}
    images = 0
    for batch in batches.epoch(epoch):
        given = maps(batch)
        found = _compute_distances(fresh, given) | {
            (name, "energy"): pair.teacher.square().mean() for name, pair in given.items()
        }
        images += len(batch.labels)
        for key, value in found.items():
            sums[key] = sums.get(key, 0.0) + float(value) * len(batch.labels)
    return {key: total / images for key, total in sums.items()}
