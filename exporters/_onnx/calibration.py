"""Measure the activations of an ONNX graph on calibration images, and choose their ranges for quantization.

The graph is run by onnxruntime with its activations as further outputs, some images at a time, so memory does not grow with
their number. onnxruntime's own calibrators do the same through files and standard output, and keep the activations of every
image at once for anything but the extremes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.system import quiet
from exporters._exporter import INPUT

if TYPE_CHECKING:
    from onnx import ModelProto

CHUNK = 8
"""Images in a run: their activations are in memory at once."""
BINS = 2048
"""Bins of a histogram; the levels of uint8 are eight times as wide."""
PERCENTILE = 99.99
"""Share of an activation's values that statistics `percentile` represents, in percent."""
_SHRUNK = np.linspace(1.0, 0.2, 81)
"""Shares of the extremes among which statistics `mse` chooses."""


class Range(NamedTuple):
    """Range of an activation that uint8 represents; zero lies inside or at the border."""

    lowest: float
    highest: float


def start_session(model: ModelProto, where: str) -> Any:
    """Start an onnxruntime session on one thread, so that sums do not depend on the machine's number of cores.

    Raises:
        CompressError: onnxruntime cannot run the graph; the message names the operator.
    """
    onnxruntime = quiet.import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # no approximations, no layouts
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidGraph, state.NotImplemented, state.InvalidArgument, state.RuntimeException) as error:
        reason = str(error).splitlines()[0]
        raise CompressError(f"{where}: onnxruntime cannot run its graph ({reason}); export with precision: fp32") from error


def replace_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy of a graph whose outputs are these tensors."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def split_batches(images: NDArray[np.float32], batch_size: int | None) -> Iterator[NDArray[np.float32]]:
    """Yield images [N, C, H, W] in batches [B, C, H, W]; a last one that must be full is filled up with the first images."""
    size = batch_size or CHUNK
    for begin in range(0, len(images), size):
        chunk = images[begin : begin + size]
        if batch_size is not None and len(chunk) < size:
            chunk = images[np.arange(begin, begin + size) % len(images)]
        yield chunk


def read_batch_size(model: ModelProto) -> int | None:
    """Read the fixed batch size of a graph; `None` if it is dynamic."""
    (entry,) = (value for value in model.graph.input if value.name == INPUT)
    return entry.type.tensor_type.shape.dim[0].dim_value or None


def measure_extremes(model: ModelProto, names: Sequence[str], images: NDArray[np.float32], where: str) -> dict[str, Range]:
    """Measure the smallest and the largest value of activations.

    Args:
        model: The float32 graph.
        names: The activations.
        images: Normalised, float32 [N, C, H, W].
        where: What is exported, for messages.

    Raises:
        CompressError: An activation is not finite.
    """
    found: dict[str, Range] = {}
    for values in _run_batches(model, names, images, where):
        for name, array in values.items():
            low, high = float(array.min(initial=0)), float(array.max(initial=0))
            if not np.isfinite(low + high):
                raise CompressError(
                    f"{where}: activation {name!r} is not finite on the calibration images; check their normalisation"
                )
            known = found.get(name, Range(0.0, 0.0))
            found[name] = Range(min(known.lowest, low), max(known.highest, high))
    return found


def count_values(
    model: ModelProto, ranges: Mapping[str, Range], images: NDArray[np.float32], where: str
) -> dict[str, NDArray[np.int64]]:
    """Count the values of activations in `BINS` equal parts of their ranges.

    Args:
        model: The float32 graph.
        ranges: Of the activations.
        images: Normalised, float32 [N, C, H, W].
        where: What is exported, for messages.

    Returns:
        The counts of each activation, [BINS].
    """
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for values in _run_batches(model, [*ranges], images, where):
        for name, array in values.items():
            counts[name] += np.histogram(array, BINS, range=ranges[name])[0]
    return counts


def _run_batches(
    model: ModelProto, names: Sequence[str], images: NDArray[np.float32], where: str
) -> Iterator[dict[str, NDArray[np.float32]]]:
    session = start_session(replace_outputs(model, names), where)
    for chunk in split_batches(images, read_batch_size(model)):
        yield dict(zip(names, session.run(list(names), {INPUT: chunk}), strict=True))


def choose_percentile_range(counts: NDArray[np.int64], full: Range) -> Range:
    """Choose the range that holds `PERCENTILE` of the values and leaves out equally many on both sides.

    Args:
        counts: Of the values in equal parts of the full range, [bins].
        full: The full range.
    """
    edges = np.linspace(full.lowest, full.highest, len(counts) + 1)
    share, cut = np.cumsum(counts) / max(counts.sum(), 1), (1 - PERCENTILE / 100) / 2
    low = edges[np.searchsorted(share, cut, side="right")]
    high = edges[np.searchsorted(share, 1 - cut) + 1]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def choose_least_squares_range(counts: NDArray[np.int64], full: Range) -> Range:
    """Choose the range, a share of the full one, whose 256 levels give the smallest mean squared error.

    Args:
        counts: Of the values in equal parts of the full range, [bins].
        full: The full range.

    Source: Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295 (ranges by squared error).
    """
    edges = np.linspace(full.lowest, full.highest, len(counts) + 1)
    values = (edges[1:] + edges[:-1]) / 2
    step = (full.highest - full.lowest) / 255 * _SHRUNK[:, None]  # [shares, 1]
    if not step.all():
        return full
    zero = np.round(-full.lowest / (step[0] or 1))
    levels = np.clip(np.round(values / step) + zero, 0, 255) - zero  # [shares, bins]
    errors = (np.square(levels * step - values) * counts).sum(axis=1)
    best = float(_SHRUNK[errors.argmin()])
    return Range(full.lowest * best, full.highest * best)
