"""A network that computes as if in int8, while its weights stay float32 and can be trained.

Every convolution and linear layer that runs rounds its weights, and what it reads, to the grids that a static int8 file has:
weights symmetric, with a scale for each output channel; activations unsigned, with one scale and zero point for each tensor,
from the smallest and largest value on calibration images. Logits that a layer gives as it ships are rounded too. Rounding lets
the gradient through inside a range and stops it outside. What else a file may round, such as the inputs of a residual
addition, stays as it is.

Batch norm is not folded into the weights before, as it is in a file. There the weights of an output channel are multiplied by
a factor, and a grid that belongs to the channel is multiplied with them, so that rounding and folding commute. For the same
reason batch norm may go on normalising by the batch in training: grids do not jitter with its statistics.

The class of each layer is exchanged for a while, so that names, state dict and graph stay as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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

Run = Callable[[Tensor], Iterable[Tensor]]


class Grid(NamedTuple):
    """The unsigned codes of an activation: `scale · (code − zero_point)` for codes 0 to 255."""

    scale: Tensor
    """[], float32."""
    zero_point: Tensor
    """[], int32."""


def fit_grid(low: Tensor, high: Tensor) -> Grid:
    """Return the grid on which zero has a code of its own, and which reaches from `low` to `high`."""
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / ACTIVATION_LIMIT).clamp(min=SMALLEST_SCALE)
    return Grid(scale, (-low / scale).round().clamp(0, ACTIVATION_LIMIT).to(torch.int32))


def round_activation(values: Tensor, grid: Grid) -> Tensor:
    """Return values of any shape on the grid; the gradient passes unchanged inside its range and not at all outside."""
    return torch.fake_quantize_per_tensor_affine(values, grid.scale, grid.zero_point, 0, ACTIVATION_LIMIT)


def round_weight(weight: Tensor, limit: int = WEIGHT_LIMIT) -> Tensor:
    """Return weights [out, ...] on the symmetric grid of each output channel, with codes −limit to limit."""
    reach = weight.detach().abs().flatten(1).amax(dim=1)  # [out]
    scale = (reach / limit).clamp(min=SMALLEST_SCALE)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -limit, limit)


@contextmanager
def fake_quantise(
    network: nn.Module, images: Tensor | NDArray[np.float32], *, saturation_fix: bool = False
) -> Iterator[nn.Module]:
    """Let a network compute as if in int8 for a while; afterwards it computes as before, to the bit.

        with fake_quantise(network, calibration):
            logits = network(images)

    Args:
        network: Maps images [B, C, H, W] to logits [B, K]; its mode is the caller's affair.
        images: Normalised images for calibration, float32 [N, C, H, W].
        saturation_fix: Leave a bit of the weights unused, as for processors whose int8 products saturate.

    Raises:
        CompressError: There is nothing to quantise, there are no images, or the network gives numbers that are not finite.
    """
    where = next(iter([*network.parameters(), *network.buffers()]), torch.empty(0)).device
    calibration = torch.as_tensor(images).to(where)
    quantiser = FakeQuantiser(network, lambda chunk: [network(chunk)], calibration, saturation_fix=saturation_fix)
    with quantiser.active():
        yield network


class FakeQuantiser:
    """The layers of a network that run, and the grids of what they read.

    Args:
        network: Holds the layers.
        run: Runs images [B, C, H, W] through what will be shipped, and returns its logits.
        images: Normalised images for calibration, [N, C, H, W], on the network's device.
        saturation_fix: Leave a bit of the weights unused.

    Raises:
        CompressError: As for `fake_quantise`.
    """

    scales: Tensor
    """[S], one for each tensor that is rounded."""
    zero_points: Tensor
    """[S], int32."""

    def __init__(self, network: nn.Module, run: Run, images: Tensor, *, saturation_fix: bool = False) -> None:
        self._network, self._run, self._images = network, run, images
        self._limit = SPARING_LIMIT if saturation_fix else WEIGHT_LIMIT
        self._names = {module: name for name, module in network.named_modules()}
        self._original: dict[nn.Module, type] = {}
        if images.dim() != 4 or len(images) == 0:
            raise CompressError(
                f"int8: calibration images are {list(images.shape)}; give at least one, [N, channels, height, width]"
            )
        seen = self._seen()
        self._sites = list(seen)
        if not self._sites:
            raise CompressError(
                f"int8: {type(network).__name__} has nothing to quantise: no Conv2d and no Linear of it runs; export it in fp32"
            )
        device = images.device
        self.scales = torch.ones(len(self._sites), device=device)
        self.zero_points = torch.zeros(len(self._sites), dtype=torch.int32, device=device)
        self._store(seen)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that compute as if in int8, in the order in which they run."""
        return tuple(self._names[module] for module, place in self._sites if place == "input")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the layers compute as if in int8 for a while."""
        try:
            self._exchange()
            yield
        finally:
            self._restore()

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fit the grids to the weights as they are now; the calibration images run through the network in floating point."""
        active = bool(self._original)
        self._restore()
        try:
            self._store(self._seen())
        finally:
            if active:
                self._exchange()

    def _exchange(self) -> None:
        grids = {site: Grid(self.scales[index], self.zero_points[index]) for index, site in enumerate(self._sites)}
        for module, place in self._sites:
            if place == "output":
                continue
            if isinstance(module, _Rounding):
                raise CompressError(
                    f"int8: {self._names[module]!r} computes as if in int8 already; leave the outer context first"
                )
            self._original[module] = type(module)
            own = _Grids(self._limit, grids[module, "input"], grids.get((module, "output")))
            module._grids = own  # type: ignore[assignment]  # no parameter, but torch lets attributes be anything
            module.__class__ = _rounding(self._original[module])

    def _restore(self) -> None:
        for module, kind in self._original.items():
            module.__class__ = kind
            module.__dict__.pop("_grids", None)
        self._original.clear()

    def _store(self, seen: _Ranges) -> None:
        for index, site in enumerate(self._sites):
            low, high = seen[site]
            if not bool(torch.isfinite(high - low)):
                raise CompressError(
                    f"int8: {self._names[site[0]]!r} meets numbers on the calibration images that are not finite; "
                    "check weights and images"
                )
            self.scales[index], self.zero_points[index] = fit_grid(low, high)

    def _seen(self) -> _Ranges:
        """Run the calibration images and return what the layers read, and give where that is an answer of the network."""
        ranges: _Ranges = {}
        given: list[tuple[nn.Module, weakref.ref[Tensor]]] = []

        def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._refuse_computed_weight(module)
            _widen(ranges, (module, "input"), inputs[0])
            given.append((module, weakref.ref(output)))  # weak, so that not all maps are kept

        handles = [module.register_forward_hook(look) for module in self._names if isinstance(module, _LAYERS)]
        try:
            with evaluating(self._network):
                for chunk in self._images.split(CHUNK):
                    given.clear()
                    answers = {id(answer): answer for answer in self._run(chunk)}
                    for module, output in given:
                        if (answer := output()) is not None and id(answer) in answers:
                            _widen(ranges, (module, "output"), answer)
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


class _Grids(NamedTuple):
    """What a layer rounds to."""

    limit: int
    input: Grid
    output: Grid | None


class _Rounding(nn.Module):
    """Before the class of a layer: rounds what it reads, its weight, and perhaps what it gives."""

    _grids: _Grids

    def forward(self, values: Tensor) -> Tensor:
        rounded = round_weight(self.get_parameter("weight"), self._grids.limit)
        self.__dict__["weight"] = rounded  # is found before the parameter of that name
        try:
            result: Tensor = super().forward(round_activation(values, self._grids.input))
        finally:
            del self.__dict__["weight"]
        return result if self._grids.output is None else round_activation(result, self._grids.output)


def _rounding(kind: type) -> type:
    return type(f"Rounding{kind.__name__}", (_Rounding, kind), {})
