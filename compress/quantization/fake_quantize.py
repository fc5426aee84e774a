"""Fake quantization: let a network compute as if in int8, while its weights stay float32 and can be trained.

Every convolution and linear layer that runs rounds its weights, and what it reads, to the grids that a static int8 file has:
weights symmetric, with a scale for each output channel; activations unsigned, with one scale and zero point for each tensor,
from the smallest and largest value on calibration images. Logits that a layer gives as it ships are rounded too. Rounding lets
the gradient through inside a range and stops it outside. What else a file may round, such as the inputs of a residual
addition, stays as it is.

Batch norm is not folded into the weights before, as it is in a file. There the weights of an output channel are multiplied by
a factor, and a grid that belongs to the channel is multiplied with them, so that rounding and folding commute. For the same
reason batch norm may go on normalising by the batch in training: grids do not jitter with its statistics.

Forward hooks do it, and are removed afterwards. `torch.nn.utils.parametrize` would exchange the class of each layer and store
its weight as `parametrizations.weight.original`, but a stage saves its weights and its state while the layers are rounded, and
these must have the names that every other stage and exporter reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from compress.errors import CompressError
from compress.freezing import evaluating

ACTIVATION_LIMIT = 255
WEIGHT_LIMIT = 127
SPARING_LIMIT = 64
"""Of weights that leave a bit unused, as onnxruntime's `reduce_range` has it: sums of two products then fit in 16 bits."""
SMALLEST_SCALE = 1e-30
"""For channels of zeros: its reciprocal is finite in float32."""
CHUNK = 32
"""Calibration images in one pass."""

_LAYERS = (nn.Conv2d, nn.Linear)

ComputeLogits = Callable[[Tensor], Iterable[Tensor]]
"""Maps images [B, C, H, W] to every [B, K] that will be shipped as logits."""


class Grid(NamedTuple):
    """The unsigned codes of an activation: `scale · (code − zero_point)` for codes 0 to 255."""

    scale: Tensor
    """[], float32."""
    zero_point: Tensor
    """[], int32."""


def fit_grid(low: Tensor, high: Tensor) -> Grid:
    """Return the grid on which zero has a code of its own, and which reaches from `low` to `high`, both [].

    A range without zero is widened to it.
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / ACTIVATION_LIMIT).clamp(min=SMALLEST_SCALE)
    return Grid(scale, (-low / scale).round().clamp(0, ACTIVATION_LIMIT).to(torch.int32))


def round_activation(values: Tensor, grid: Grid) -> Tensor:
    """Round values [...] to a grid, [...]; the gradient passes unchanged inside its range and not at all outside."""
    return torch.fake_quantize_per_tensor_affine(values, grid.scale, grid.zero_point, 0, ACTIVATION_LIMIT)


def round_weight(weight: Tensor, limit: int = WEIGHT_LIMIT) -> Tensor:
    """Round weights [out, ...] to a symmetric grid for each output channel, with codes −limit to limit; [out, ...]."""
    reach = weight.detach().abs().flatten(1).amax(dim=1)  # [out]
    scale = (reach / limit).clamp(min=SMALLEST_SCALE)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -limit, limit)


@contextmanager
def apply_fake_quantization(
    network: nn.Module, images: Tensor | NDArray[np.float32], *, saturation_fix: bool = False
) -> Iterator[nn.Module]:
    """Let a network compute as if in int8 inside a `with` block; afterwards it computes as before, to the bit.

        with apply_fake_quantization(network, calibration):
            logits = network(images)

    Args:
        network: Maps images [B, C, H, W] to logits [B, K]; its mode is left alone.
        images: Normalised images for calibration, float32 [N, C, H, W].
        saturation_fix: Leave a bit of the weights unused, as for processors whose int8 products saturate.

    Raises:
        CompressError: There is nothing to quantize, there are no images, or the network gives numbers that are not finite.
    """
    where = next(iter([*network.parameters(), *network.buffers()]), torch.empty(0)).device
    calibration = torch.as_tensor(images).to(where)
    quantizer = FakeQuantizer(network, lambda chunk: [network(chunk)], calibration, saturation_fix=saturation_fix)
    with quantizer.active():
        yield network


class FakeQuantizer:
    """Rounds the layers of a network that run, to grids that are fitted on calibration images.

    Args:
        network: Holds the layers.
        compute_logits: Runs what will be shipped.
        images: Normalised images for calibration, [N, C, H, W], on the network's device.
        saturation_fix: Leave a bit of the weights unused.

    Raises:
        CompressError: As for `apply_fake_quantization`.
    """

    scales: Tensor
    """[S], one for each tensor that is rounded."""
    zero_points: Tensor
    """[S], int32."""

    def __init__(
        self, network: nn.Module, compute_logits: ComputeLogits, images: Tensor, *, saturation_fix: bool = False
    ) -> None:
        self._network, self._compute_logits, self._images = network, compute_logits, images
        self._limit = SPARING_LIMIT if saturation_fix else WEIGHT_LIMIT
        self._names = {module: name for name, module in network.named_modules()}
        self._roundings: dict[nn.Module, _Rounding] = {}
        self._handles: list[RemovableHandle] = []
        if images.dim() != 4 or len(images) == 0:
            raise CompressError(
                f"int8: calibration images are {list(images.shape)}; give at least one, [N, channels, height, width]"
            )
        ranges = self._observe_ranges()
        self._sites = list(ranges)
        if not self._sites:
            raise CompressError(
                f"int8: {type(network).__name__} has nothing to quantize: no Conv2d and no Linear of it runs; export it in fp32"
            )
        device = images.device
        self.scales = torch.ones(len(self._sites), device=device)
        self.zero_points = torch.zeros(len(self._sites), dtype=torch.int32, device=device)
        self._fit_grids(ranges)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that compute as if in int8, in the order in which they run."""
        return tuple(self._names[module] for module, place in self._sites if place == "input")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the layers compute as if in int8 inside a `with` block.

        Raises:
            CompressError: They do so already, by another quantizer.
        """
        try:
            self._attach()
            yield
        finally:
            self._detach()

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fit the grids to the weights as they are now; the calibration images run through the network in floating point.

        Raises:
            CompressError: The network gives numbers that are not finite.
        """
        active = bool(self._roundings)
        self._detach()
        try:
            self._fit_grids(self._observe_ranges())
        finally:
            if active:
                self._attach()

    def _attach(self) -> None:
        grids = {site: Grid(self.scales[index], self.zero_points[index]) for index, site in enumerate(self._sites)}
        for module in (module for module, place in self._sites if place == "input"):
            if _is_rounded(module):
                raise CompressError(
                    f"int8: {self._names[module]!r} computes as if in int8 already; leave the outer context first"
                )
            rounding = _Rounding(self._limit, grids[module, "input"], grids.get((module, "output")))
            self._roundings[module] = rounding
            self._handles += [
                module.register_forward_pre_hook(rounding.begin),
                module.register_forward_hook(rounding.end, prepend=True, always_call=True),
            ]

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module, rounding in self._roundings.items():
            rounding.restore(module)  # a layer that Ctrl-C stopped
        self._handles.clear()
        self._roundings.clear()

    def _fit_grids(self, ranges: _Ranges) -> None:
        for index, site in enumerate(self._sites):
            low, high = ranges[site]
            if not bool(torch.isfinite(high - low)):
                raise CompressError(
                    f"int8: {self._names[site[0]]!r} meets numbers on the calibration images that are not finite; "
                    "check weights and images"
                )
            self.scales[index], self.zero_points[index] = fit_grid(low, high)

    def _observe_ranges(self) -> _Ranges:
        """Run the calibration images and return the ranges of what layers read, and of outputs that are the logits."""
        ranges: _Ranges = {}
        outputs: list[tuple[nn.Module, weakref.ref[Tensor]]] = []

        def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._refuse_computed_weight(module)
            _widen(ranges, (module, "input"), inputs[0])
            outputs.append((module, weakref.ref(output)))  # weak, so that not all maps are kept

        handles = [module.register_forward_hook(observe) for module in self._names if isinstance(module, _LAYERS)]
        try:
            with evaluating(self._network):
                for chunk in self._images.split(CHUNK):
                    outputs.clear()
                    logits = {id(each): each for each in self._compute_logits(chunk)}
                    for module, output in outputs:
                        if (given := output()) is not None and id(given) in logits:
                            _widen(ranges, (module, "output"), given)
        finally:
            for handle in handles:
                handle.remove()
        return ranges

    def _refuse_computed_weight(self, module: nn.Module) -> None:
        if "weight" not in module._parameters:
            raise CompressError(
                f"int8: the weight of {self._names[module]!r} is computed by a parametrisation; make it plain with "
                "torch.nn.utils.parametrize.remove_parametrizations first"
            )


Site = tuple[nn.Module, str]
"""A layer, and whether its `input` or its `output` is rounded."""

_Ranges = dict[Site, tuple[Tensor, Tensor]]
"""The smallest and the largest value."""


def _widen(ranges: _Ranges, site: Site, values: Tensor) -> None:
    low, high = torch.aminmax(values)
    before = ranges.get(site, (low, high))
    ranges[site] = (torch.minimum(before[0], low), torch.maximum(before[1], high))


class _Rounding:
    """The hooks of one layer: round what it reads and its weight, and perhaps its output.

    While the layer computes, the rounded weight stands in the parameter's place, as in `torch.func.functional_call`. Hooks are
    given the module that calls them, so a copy of a network is rounded on its own.
    """

    def __init__(self, limit: int, reads: Grid, gives: Grid | None) -> None:
        self._limit, self._reads, self._gives = limit, reads, gives
        self._weight: Parameter | None = None

    def begin(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Put the rounded weight in place and return the rounded input, [...]."""
        values = round_activation(inputs[0], self._reads)
        self._weight = module.get_parameter("weight")
        rounded = round_weight(self._weight, self._limit)
        module._parameters["weight"] = cast("Parameter", rounded)  # of a layer that computes, any tensor serves
        return values

    def end(self, module: nn.Module, _inputs: object, output: Tensor | None) -> Tensor | None:
        """Put the parameter back, also after an error, when there is no output; return the output [...] if it is rounded."""
        self.restore(module)
        return None if output is None or self._gives is None else round_activation(output, self._gives)

    def restore(self, module: nn.Module) -> None:
        """Put the parameter back if the layer was stopped while it computed."""
        if self._weight is not None:
            module._parameters["weight"], self._weight = self._weight, None


def _is_rounded(module: nn.Module) -> bool:
    return any(isinstance(getattr(hook, "__self__", None), _Rounding) for hook in module._forward_pre_hooks.values())
