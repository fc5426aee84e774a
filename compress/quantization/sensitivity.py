"""How much each layer suffers from int8: the order in which layers are given back to floating point.

Each layer is quantised alone, the file is run on its own runtime on some of the validation images, and its answers are compared
with those of the network in float32. Where writing a file takes long, torch runs the graph that would be written. The other way
round, one layer kept in float at a time, hides a layer behind the harm of all others. Errors of layers add up only about, so
the order is a guide, and the gate judges what is made by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.records import Sensitivity
from exporters._exporter import Quantisation

if TYPE_CHECKING:
    from compress.quantization.candidate import Footing

IMAGES = 256
"""Validation images for one layer. The order follows the relative difference, of which so many tell enough."""
BROKEN = 1e6
"""Relative difference of answers that are not finite: worse than any that is."""


def measured(footing: Footing, base: Quantisation, folder: Path, done: Callable[[str], None]) -> tuple[Sensitivity, ...]:
    """Return what each layer does to the answers when it alone is int8, worst first.

    Args:
        footing: The network and how its files are run.
        base: Statistics and saturation fix that every file has.
        folder: Where the files lie for as long as they are needed.
        done: Told the name of each layer that was measured.

    Raises:
        CompressError: The quantiser cannot do a layer alone, or the runtime cannot run it.
    """
    layers, count = footing.layers, len(footing.labels)
    images = np.linspace(0, count - 1, min(IMAGES, count)).astype(np.intp)
    found = []
    for layer in layers:
        others = tuple(each for each in layers if each != layer)
        alone = Quantisation(statistics=base.statistics, saturation_fix=base.saturation_fix, keep=others)
        answers = footing.simulated(alone, images)
        if answers is None:
            answers = footing.answer(footing.write(folder, alone), images)
            shutil.rmtree(folder)
        found.append(_compared(layer, footing.reference[images], answers))
        done(layer)
    return tuple(sorted(found, key=lambda each: (-each.relative_difference, each.agreement_percent)))


def _compared(layer: str, reference: NDArray[np.float32], answers: NDArray[np.float32]) -> Sensitivity:
    """Compare logits [N, K]; where any is not finite, the layer is broken."""
    difference = answers.astype(np.float64) - reference
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        share = float(np.sqrt(np.square(difference).mean() / np.square(reference, dtype=np.float64).mean()))
    return Sensitivity(
        layer=layer,
        relative_difference=min(share, BROKEN) if np.isfinite(share) else BROKEN,
        agreement_percent=100 * float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean()),
    )
