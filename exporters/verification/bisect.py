"""The bisecting tool: the first layer in which two files of one network give different numbers for the same images.

Every intermediate tensor of both files becomes an output, both are run on a few images, and tensors of the same name are
compared in the order in which they are computed. ONNX files and the OpenVINO IR that is derived from them share the names;
files from elsewhere are matched by the order of their convolutions and linear layers. Behind a tensor that is quantized
stands its rounded value, so what a layer hands on is compared, not what it computed. A tensor that an output exposes is no
longer fused with its neighbours, so damage that only the runtime's own fusing does shows in the last answer alone; that is
said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.records import Precision, Record
from exporters._exporter import INPUT, OUTPUT
from exporters.verification.intermediates import ACTIVATIONS, WEIGHTED, Graph, Tensor, Values

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.1, "int8": 0.5}
"""RMS of a tensor's difference over that of the tensor, beyond which two files part. Roundings of earlier layers add up, and
a layer behind which little is left after a ReLU shows them largest, so there is more room than for logits."""
_NORMALISED = "images_normalised"
"""Where a file that carries the preprocessing has what others are fed."""


class LayerDifference(Record):
    """One tensor in both files."""

    layer: str
    """What the weight is called that makes it; the tensor's own name where there is none."""
    kind: str
    """The operator."""
    relative_difference: float | None = None
    """Root mean square of the difference over that of the reference; none where the two cannot be compared."""
    problem: str = ""
    """Why they cannot."""


class Located(Record):
    """Where a file parts from another of the same network."""

    file: str
    against: str
    images: int
    tolerance: float
    """Relative difference that the file's precision allows."""
    parted: int | None
    """Number of the first layer beyond it, from 0; none where there is none."""
    steepest: int | None
    """Number of the layer that adds most to the difference of those before it."""
    layers: tuple[LayerDifference, ...]
    """In the order in which they are computed."""
    unmatched: int
    """Tensors of the reference that the file does not have: fused, folded or quantized away."""
    note: str = ""
    """What the table does not show."""

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""
        if not self.layers:
            return f"{self.file}: {self.note}"
        if self.parted is None:
            return f"{self.file}: no layer differs from {self.against} by more than {self.tolerance:g}" + _more(self.note)
        first = self.layers[self.parted]
        found = first.problem or f"differs by {first.relative_difference:.3g}, more than {self.tolerance:g}"
        return f"{self.file}: parts from {self.against} in {first.layer} ({first.kind}): {found}" + _more(self.note)


def locate(
    file: tuple[str, Graph, NDArray[Any]], reference: tuple[str, Graph, NDArray[Any]], *, precision: Precision
) -> Located:
    """Compare every tensor of a file with that of a reference.

    Args:
        file: Its name, its graph, and the images as it takes them.
        reference: The same of a file that is known to be good.
        precision: Of the file.

    Returns:
        The differences in the order of the reference.
    """
    (name, graph, images), (against, good, same_images) = file, reference
    found, wanted = graph.run(images), good.run(same_images)
    if _NORMALISED in found:
        found[INPUT] = found[_NORMALISED]
    pairs = _by_name(graph, good, found, wanted) or _by_order(graph, good, found, wanted)
    layers = tuple(_difference(tensor, found[mine], wanted[tensor.name]) for tensor, mine in pairs)
    tolerance = TOLERANCE[precision]
    return Located(
        file=name,
        against=against,
        images=len(images),
        tolerance=tolerance,
        parted=next((index for index, layer in enumerate(layers) if _beyond(layer, tolerance)), None),
        steepest=_steepest(layers, tolerance),
        layers=layers,
        unmatched=sum(tensor.name in wanted for tensor in good.tensors) - len(layers),
        note=_note(graph, images, found, wanted, tolerance),
    )


def _more(note: str) -> str:
    return f"; {note}" if note else ""


def _beyond(layer: LayerDifference, tolerance: float) -> bool:
    return layer.relative_difference is None or layer.relative_difference > tolerance


def _by_name(graph: Graph, good: Graph, found: Mapping[str, Values], wanted: Mapping[str, Values]) -> list[tuple[Tensor, str]]:
    """Return tensors of the reference with the file's tensor of that name; none where most have other names."""
    pairs = []
    for tensor in good.tensors:
        if tensor.name not in wanted:
            continue
        mine = tensor.name
        if mine not in found and tensor.kind in ACTIVATIONS:  # the quantizer drops it, for its own range ends at 0 as well
            mine = graph.rounded.get(tensor.source, mine)
        elif mine in found and not _activation_dropped(tensor, good, found):
            mine = graph.rounded.get(mine, mine)
        if mine in found:
            pairs.append((tensor, mine))
    return pairs if 2 * len(pairs) > sum(tensor.name in wanted for tensor in good.tensors) else []


def _activation_dropped(tensor: Tensor, good: Graph, found: Mapping[str, Values]) -> bool:
    """Return whether the tensor is followed by a ReLU that the file has not got."""
    return any(other.source == tensor.name and other.kind in ACTIVATIONS and other.name not in found for other in good.tensors)


def _by_order(graph: Graph, good: Graph, found: Mapping[str, Values], wanted: Mapping[str, Values]) -> list[tuple[Tensor, str]]:
    """Return convolutions and linear layers side by side, if there are as many in both, and the logits."""
    theirs = [tensor for tensor in good.tensors if tensor.kind in WEIGHTED and tensor.name in wanted]
    mine = [tensor.name for tensor in graph.tensors if tensor.kind in WEIGHTED and tensor.name in found]
    pairs = [*zip(theirs, mine, strict=True)] if len(theirs) == len(mine) else []
    if not any(name == OUTPUT for _, name in pairs):
        pairs += [(tensor, OUTPUT) for tensor in good.tensors if tensor.name == OUTPUT and OUTPUT in found]
    return pairs


def _difference(tensor: Tensor, mine: Values, wanted: Values) -> LayerDifference:
    if mine.shape != wanted.shape:
        problem = f"has shape {list(mine.shape)}, not {list(wanted.shape)}"
        return LayerDifference(layer=tensor.layer, kind=tensor.kind, problem=problem)
    if not np.isfinite(mine).all():
        broken = int((~np.isfinite(mine)).sum())
        problem = f"{broken} of {mine.size} values are not finite"
        return LayerDifference(layer=tensor.layer, kind=tensor.kind, problem=problem)
    relative = _rms(mine - wanted) / max(_rms(wanted), 1e-12)
    return LayerDifference(layer=tensor.layer, kind=tensor.kind, relative_difference=relative)


def _rms(values: Values) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _steepest(layers: Sequence[LayerDifference], tolerance: float) -> int | None:
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


def _note(
    graph: Graph, images: NDArray[Any], found: Mapping[str, Values], wanted: Mapping[str, Values], tolerance: float
) -> str:
    answer, own, good = graph.answer(images), found.get(OUTPUT), wanted.get(OUTPUT)
    if own is None or good is None or not own.shape == answer.shape == good.shape:
        return ""
    as_it_is, exposed = (_rms(logits - good) / max(_rms(good), 1e-12) for logits in (answer, own))
    if as_it_is > tolerance >= exposed:
        return (
            f"as the runtime fuses it the logits differ by {as_it_is:.3g}, with every tensor exposed by {exposed:.3g}: "
            "look for the damage in the runtime's own optimisation"
        )
    return ""
