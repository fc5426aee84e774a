"""Measure the sensitivity of each layer to int8: the order in which layers are given back to floating point.

Each layer is quantized alone, the file is run on its own runtime on some of the validation images, and its logits are compared
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
from compress.tasks import Task
from exporters import Quantization

if TYPE_CHECKING:
    from compress.quantization.candidate import QuantizationBackend

IMAGES = 256
"""Validation images for one layer: enough, for the order follows the relative difference of logits and not single classes."""
BROKEN = 1e6
"""Relative difference of logits that are not finite: worse than any that is."""


def measure_layer_sensitivity(
    backend: QuantizationBackend, base: Quantization, folder: Path, on_layer: Callable[[str], None]
) -> tuple[Sensitivity, ...]:
    """Return how far each layer moves the logits when it alone is int8, worst first.

    Args:
        backend: The network, and how its files are run.
        base: Statistics and saturation fix that every file has.
        folder: Where each file lies for as long as it is needed.
        on_layer: Called with the name of each layer when it was measured.

    Raises:
        CompressError: The quantizer cannot do a layer alone, or the runtime cannot run it.
    """
    layers, count = backend.layers, len(backend.labels)
    images = np.linspace(0, count - 1, min(IMAGES, count)).astype(np.intp)
    found = []
    for layer in layers:
        others = tuple(each for each in layers if each != layer)
        alone = Quantization(statistics=base.statistics, saturation_fix=base.saturation_fix, keep=others)
        logits = backend.simulate(alone, images)
        if logits is None:
            logits = backend.run_file(backend.write(folder, alone), images)
            shutil.rmtree(folder)
        found.append(_compare(layer, backend.reference[images], logits, backend.task))
        on_layer(layer)
    return tuple(sorted(found, key=lambda each: (-each.relative_difference, each.agreement_percent)))


def _compare(layer: str, reference: NDArray[np.float32], logits: NDArray[np.float32], task: Task) -> Sensitivity:
    """Compare logits [N, K, ...] with those of the network; where any is not finite, the layer counts as broken."""
    difference = logits.astype(np.float64) - reference
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        share = float(np.sqrt(np.square(difference).mean() / np.square(reference, dtype=np.float64).mean()))
    return Sensitivity(
        layer=layer,
        relative_difference=min(share, BROKEN) if np.isfinite(share) else BROKEN,
        agreement_percent=100 * task.measure_agreement(reference, logits),
    )
