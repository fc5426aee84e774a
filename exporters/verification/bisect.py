"""Find the first layer in which two files of one network give different numbers for the same images.

Every intermediate tensor of both files becomes an output, both are run on a few images, and tensors of the same name are
compared in the order in which they are computed. ONNX files and the OpenVINO IR that is derived from them share the names;
files from elsewhere are matched by the order of their convolutions and linear layers. Behind a tensor that is quantized
stands its rounded value, so what a layer hands on is compared, not what it computed. A tensor that becomes an output is no
longer fused with its neighbours, so damage that only the runtime's own fusing does shows in the logits of the unchanged file
alone; the note says so then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.records import Precision, Record
from exporters._exporter import INPUT, OUTPUT
from exporters.verification.intermediates import DROPPED_ACTIVATIONS, WEIGHTED, Graph, Tensor, Values

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.1, "int8": 0.5}
"""Relative difference (RMS of a tensor's difference over that of the tensor) beyond which two files differ. Roundings of
earlier layers add up, and a layer behind which little is left after a ReLU shows them largest, so there is more room than for
logits."""
_NORMALISED = "images_normalised"
"""Tensor of a file that normalises by itself which is the input of the others."""


class LayerDifference(Record):
    """Difference of one tensor between two files."""

    layer: str
    """Name of the layer whose weight makes it; the tensor's own name where there is none."""
    kind: str
    """The operator."""
    relative_difference: float | None = None
    """Root mean square of the difference over that of the reference; `None` where the two cannot be compared."""
    problem: str = ""
    """Why the two cannot be compared."""


class LayerComparison(Record):
    """Differences between a file and another of the same network, layer by layer."""

    file: str
    against: str
    images: int
    tolerance: float
    """Relative difference that the file's precision allows."""
    first_different: int | None
    """Index of the first layer beyond it; `None` where there is none."""
    steepest: int | None
    """Index of the layer that multiplies the difference of those before it most."""
    layers: tuple[LayerDifference, ...]
    """In the order in which they are computed."""
    unmatched: int
    """Tensors of the reference that the file does not have: fused, folded or quantized away."""
    note: str = ""
    """Damage that the table does not show."""

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.layers:
            return f"{self.file}: {self.note}"
        if self.first_different is None:
            return f"{self.file}: no layer differs from {self.against} by more than {self.tolerance:g}" + _append_note(
                self.note
            )
        first = self.layers[self.first_different]
        found = first.problem or f"differs by {first.relative_difference:.3g}, more than {self.tolerance:g}"
        return f"{self.file}: parts from {self.against} in {first.layer} ({first.kind}): {found}" + _append_note(self.note)


def compare_layers(
    file: tuple[str, Graph, NDArray[Any]], reference: tuple[str, Graph, NDArray[Any]], *, precision: Precision
) -> LayerComparison:
    """Compare every tensor of a file with that of a reference.

    Args:
        file: Its name, its graph, and the images as it takes them: normalised float32 [N, C, H, W], or uint8 [N, H, W, C].
        reference: The same of a file that is known to be good.
        precision: Of the file.

    Returns:
        The differences in the order of the reference.
    """
    (name, graph, images), (against, good, same_images) = file, reference
    found, wanted = graph.run(images), good.run(same_images)
    if _NORMALISED in found:
        found[INPUT] = found[_NORMALISED]
    pairs = _pair_by_name(graph, good, found, wanted) or _pair_by_order(graph, good, found, wanted)
    layers = tuple(_compare_tensors(tensor, found[mine], wanted[tensor.name]) for tensor, mine in pairs)
    tolerance = TOLERANCE[precision]
    return LayerComparison(
        file=name,
        against=against,
        images=len(images),
        tolerance=tolerance,
        first_different=next((index for index, layer in enumerate(layers) if _is_beyond(layer, tolerance)), None),
        steepest=_find_steepest(layers, tolerance),
        layers=layers,
        unmatched=sum(tensor.name in wanted for tensor in good.tensors) - len(layers),
        note=_explain_fusing(graph, images, found, wanted, tolerance),
    )


def _append_note(note: str) -> str:
    return f"; {note}" if note else ""


def _is_beyond(layer: LayerDifference, tolerance: float) -> bool:
    return layer.relative_difference is None or layer.relative_difference > tolerance


def _pair_by_name(
    graph: Graph, good: Graph, found: Mapping[str, Values], wanted: Mapping[str, Values]
) -> list[tuple[Tensor, str]]:
    """Pair tensors of the reference with the file's tensors of the same names; none where most have other names."""
    pairs = []
    for tensor in good.tensors:
        if tensor.name not in wanted:
            continue
        mine = tensor.name
        if (
            mine not in found and tensor.kind in DROPPED_ACTIVATIONS
        ):  # the quantizer drops it, for its own range ends at 0 as well
            mine = graph.rounded.get(tensor.source, mine)
        elif mine in found and not _is_activation_dropped(tensor, good, found):
            mine = graph.rounded.get(mine, mine)
        if mine in found:
            pairs.append((tensor, mine))
    return pairs if 2 * len(pairs) > sum(tensor.name in wanted for tensor in good.tensors) else []


def _is_activation_dropped(tensor: Tensor, good: Graph, found: Mapping[str, Values]) -> bool:
    """Return whether the tensor is followed by a ReLU that is missing in the file."""
    return any(
        other.source == tensor.name and other.kind in DROPPED_ACTIVATIONS and other.name not in found for other in good.tensors
    )


def _pair_by_order(
    graph: Graph, good: Graph, found: Mapping[str, Values], wanted: Mapping[str, Values]
) -> list[tuple[Tensor, str]]:
    """Pair convolutions and linear layers in order, if there are as many in both, and the logits."""
    theirs = [tensor for tensor in good.tensors if tensor.kind in WEIGHTED and tensor.name in wanted]
    mine = [tensor.name for tensor in graph.tensors if tensor.kind in WEIGHTED and tensor.name in found]
    pairs = [*zip(theirs, mine, strict=True)] if len(theirs) == len(mine) else []
    if not any(name == OUTPUT for _, name in pairs):
        pairs += [(tensor, OUTPUT) for tensor in good.tensors if tensor.name == OUTPUT and OUTPUT in found]
    return pairs


def _compare_tensors(tensor: Tensor, mine: Values, wanted: Values) -> LayerDifference:
    if mine.shape != wanted.shape:
        problem = f"has shape {list(mine.shape)}, not {list(wanted.shape)}"
        return LayerDifference(layer=tensor.layer, kind=tensor.kind, problem=problem)
    if not np.isfinite(mine).all():
        broken = int((~np.isfinite(mine)).sum())
        problem = f"{broken} of {mine.size} values are not finite"
        return LayerDifference(layer=tensor.layer, kind=tensor.kind, problem=problem)
    relative = _compute_rms(mine - wanted) / max(_compute_rms(wanted), 1e-12)
    return LayerDifference(layer=tensor.layer, kind=tensor.kind, relative_difference=relative)


def _compute_rms(values: Values) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _find_steepest(layers: Sequence[LayerDifference], tolerance: float) -> int | None:
    """Return which layer multiplies the largest difference before it most; differences far below the tolerance are noise."""
    worst, steepest, before = 2.0, None, tolerance / 10
    for index, layer in enumerate(layers):
        here = np.inf if layer.relative_difference is None else layer.relative_difference
        if here / before > worst:
            worst, steepest = here / before, index
        before = max(before, here)
        if before == np.inf:
            break
    return steepest


def _explain_fusing(
    graph: Graph, images: NDArray[Any], found: Mapping[str, Values], wanted: Mapping[str, Values], tolerance: float
) -> str:
    unchanged, own, good = graph.run_unchanged(images), found.get(OUTPUT), wanted.get(OUTPUT)
    if own is None or good is None or not own.shape == unchanged.shape == good.shape:
        return ""
    as_it_is, exposed = (_compute_rms(logits - good) / max(_compute_rms(good), 1e-12) for logits in (unchanged, own))
    if as_it_is > tolerance >= exposed:
        return (
            f"as the runtime fuses it the logits differ by {as_it_is:.3g}, with every tensor exposed by {exposed:.3g}: "
            "look for the damage in the runtime's own optimisation"
        )
    return ""
