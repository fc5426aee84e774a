"""int8 by NNCF: ranges are estimated on images, biases corrected, weights stored in int8 with a scale for each channel.

What `default` means is NNCF's own default, unchanged, so that the first rung of the ladder is what everybody else gets. That
includes its fix of overflow in the first layer, where it costs little and helps most: images fill their range and have negative
values, so the first products are the ones that saturate. `saturation_fix` extends it to every layer.

A call of nncf takes about as long however few the images are: it searches the graph for patterns of operators, and compiles the
network once for the statistics and once more for each bias that is corrected. It has no public way to keep statistics between
calls (`statistics_path` is for the compression of weights alone). Layers that are kept save their share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress import plugins
from compress.errors import CompressError
from compress.system import quiet
from exporters._exporter import Quantization
from exporters._openvino.file import write_files
from exporters._openvino.graph import (
    Layer,
    extract_reason,
    find_float_nodes,
    find_last_layers,
    find_weighted_nodes,
    has_attention,
)

if TYPE_CHECKING:
    from compress.records import Preprocess


class _Estimation(NamedTuple):
    """NNCF's settings for estimating ranges and biases."""

    full_bias_correction: bool = False
    """Correct each bias with the outputs of the quantized layers before it, not with their mean outputs in float."""
    ranges: str = ""
    """Activation ranges: the extremes of all images instead of the mean of each image's."""
    alignment: bool = False
    """Level the ranges of channels between convolutions that follow each other."""
    smoothing: bool = False
    """Move ranges from activations into weights where there is attention (SmoothQuant)."""


ESTIMATIONS: Mapping[str, _Estimation] = {
    "default": _Estimation(smoothing=True),
    "minmax_bias_correction": _Estimation(full_bias_correction=True, ranges="MINMAX"),
    "bias_correction": _Estimation(full_bias_correction=True),
    "minmax": _Estimation(ranges="MINMAX"),
    "channel_alignment": _Estimation(alignment=True),
}
"""Full bias correction first: in NNCF's own reference results it saves most of what the default loses on MobileNetV3-small of
width 0.5. All but the default go without SmoothQuant: there Swin is better without it, and on x86 without VNNI it was seen to
ruin small transformers that are well in exact arithmetic.

Source: openvinotoolkit/nncf, tests/post_training/data/ptq_reference_data.yaml.
"""


class QuantizableOpenvino:
    """A translated network with images on which its ranges are estimated, ready to be written in int8.

    Args:
        model: The OpenVINO graph, with a dynamic batch; left as it is.
        layers: The layers that can be kept in floating point.
        images: Normalised, float32 [N, C, H, W].
        batch_size: The only number of images that the files take; `None` takes any.
        pixels: The preprocessing to put in front.
        gives_class: Whether class and score are put behind.

    Raises:
        CompressError: There is no layer to quantize.
    """

    def __init__(
        self,
        model: Any,
        layers: tuple[Layer, ...],
        images: NDArray[np.float32],
        *,
        batch_size: int | None,
        pixels: Preprocess | None,
        gives_class: bool = False,
    ) -> None:
        self._ends = find_last_layers(model, layers) if len(model.outputs) > 1 else frozenset()  # a detector's stay in float
        self._left: set[str] = set()
        self._model, self._layers, self._images = model, layers, images
        self._batch_size, self._pixels, self._gives_class = batch_size, pixels, gives_class
        self._attention = has_attention(model)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be kept in floating point."""
        return tuple(layer.name for layer in self._layers if layer.name not in self._ends | self._left)

    @property
    def always_float(self) -> tuple[str, ...]:
        """Names of the layers that are in floating point in every file: a detector's last, and those that NNCF leaves so."""
        return tuple(layer.name for layer in self._layers if layer.name in self._ends | self._left)

    def write(self, path: Path, quantization: Quantization) -> None:
        """Write the int8 file; see the contract in `_exporter.py`.

        Raises:
            CompressError: As in the contract.
            Unreachable: As in the contract.
        """
        self._check(quantization)
        keep = self._ends | self._left | frozenset(quantization.keep)
        model = self._quantize(quantization, find_float_nodes(self._model, self._layers, keep), path)
        if self._batch_size is not None:
            model.reshape([self._batch_size, *self._images.shape[1:]])
        write_files(
            model,
            path,
            check=lambda stored: self._check_stored(stored, keep, path),
            pixels=self._pixels,
            gives_class=self._gives_class,
        )

    def _check(self, quantization: Quantization) -> None:
        if quantization.statistics not in ESTIMATIONS:
            hint = plugins.suggest_name(quantization.statistics, list(ESTIMATIONS))
            raise CompressError(f"exporters/openvino: there are no statistics {quantization.statistics!r}; {hint}")
        for name in quantization.keep:
            if name not in self.layers:
                hint = plugins.suggest_name(name, list(self.layers))
                raise CompressError(f"exporters/openvino: keep: the network has no layer {name!r}; {hint}")

    def _quantize(self, quantization: Quantization, ignored: list[str], path: Path) -> Any:
        """Quantize a copy of the graph; its weights are stored as int8 already."""
        nncf = quiet.import_nncf()
        estimation = ESTIMATIONS[quantization.statistics]
        try:
            with quiet.silence_nncf():
                return nncf.quantize(
                    self._model.clone(),
                    nncf.Dataset(self._images[:, None]),  # each item is a batch of one image
                    subset_size=len(self._images),
                    fast_bias_correction=not estimation.full_bias_correction,
                    model_type=nncf.ModelType.TRANSFORMER if self._attention else None,
                    ignored_scope=nncf.IgnoredScope(names=ignored),
                    advanced_parameters=_build_parameters(nncf, estimation, saturation_fix=quantization.saturation_fix),
                )
        except (RuntimeError, KeyError, nncf.InternalError, nncf.UnsupportedModelError, nncf.ValidationError) as error:
            if isinstance(error, KeyError) and not estimation.alignment:
                raise  # NNCF 3.4.0 fails so, by a defect of its own, where channel alignment finds something to align
            why = f"KeyError: {error}" if isinstance(error, KeyError) else extract_reason(error)
            raise CompressError(
                f"{path}: NNCF cannot quantize this network ({why}); use other statistics, or precision: fp16"
            ) from error

    def _check_stored(self, stored: Any, keep: frozenset[str], path: Path) -> None:
        """Refuse a file with a layer in float32 or int8 that should be otherwise, and learn which ones NNCF leaves in float32.

        NNCF knows patterns that it never quantizes, such as some forms of squeeze and excitation.
        """
        kinds = {
            node.get_friendly_name(): weight.get_element_type().get_type_name() for node, weight in find_weighted_nodes(stored)
        }
        left: set[str] = set()
        for layer in self._layers:
            wanted = {"f32"} if layer.name in keep else {"i8", "u8"}
            found = {kinds.get(node, "no constant") for node in layer.nodes}
            if layer.name not in keep and found == {"f32"}:
                left.add(layer.name)
            elif not found <= wanted:
                shown, expected = ", ".join(sorted(found - wanted)), " or ".join(sorted(wanted))
                raise CompressError(f"{path}: the weights of layer {layer.name!r} were stored as {shown}, not {expected}")
        if left and len(keep | left) == len(self._layers):
            raise CompressError(f"{path}: NNCF leaves every layer in float32, {min(left)!r} too; use precision: fp16")
        self._left |= left


def _build_parameters(nncf: Any, estimation: _Estimation, *, saturation_fix: bool) -> Any:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    options: dict[str, Any] = {}
    if saturation_fix:
        options["overflow_fix"] = nncf.OverflowFix.ENABLE
    if estimation.ranges:
        options["activations_range_estimator_params"] = getattr(RangeEstimatorParametersSet, estimation.ranges)
    if estimation.alignment:
        options["disable_channel_alignment"] = False
    if not estimation.smoothing:
        options["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=-1)
    return nncf.AdvancedQuantizationParameters(**options)
