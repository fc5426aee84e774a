"""Teachers that take their images, or know their classes, otherwise than the data has them.

What a teacher was trained on is part of the teacher: mean and std, size, order of channels, order of classes. A network that is
wrapped here takes the images of the data and gives the classes of the data, so that it is the same wherever it is run: in
a training step, by an inference engine, in a check, or as an exported file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.geometry import place_in
from compress.models._network import Network, Outputs

Channels = Literal["gray", "rgb", "bgr"]
Geometry = Literal["squeeze", "center_crop", "letterbox"]
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray, as Pillow has them (ITU-R 601-2)."""


class InputFormat(NamedTuple):
    """How images are prepared."""

    mean: tuple[float, ...]
    """On the scale 0 to 1, one for each channel in the order of `channels`."""
    std: tuple[float, ...]
    channels: Channels
    size: tuple[int, int] | None = None
    """Height and width; `None` is any."""
    geometry: Geometry = "squeeze"
    """How images of another shape come to that size."""


class _Around(Network):
    """A network around another."""

    def __init__(self, network: Network, *, classifier: str | None) -> None:
        super().__init__(network, taps=())
        self.taps, self.classifier_name = network.taps, classifier

    @property
    def inner(self) -> Network:
        """The network within."""
        assert isinstance(self.module, Network)  # noqa: S101 (for the type checker)
        return self.module


class Adapted(_Around):
    """A network that takes images which were prepared otherwise than those that it was trained on.

    Args:
        network: Takes images as `wanted`.
        given: How the images are prepared that it will be given; none of the sizes of both is needed.
        wanted: How they should have been.
        interpolation: How they are resized.
    """

    def __init__(self, network: Network, *, given: InputFormat, wanted: InputFormat, interpolation: str = "bilinear") -> None:
        super().__init__(network, classifier=network.classifier_name)
        self.given, self.wanted, self.interpolation = given, wanted, interpolation
        self.given_mean, self.given_std = _make_buffer(given.mean), _make_buffer(given.std)
        self.wanted_mean, self.wanted_std = _make_buffer(wanted.mean), _make_buffer(wanted.std)
        self.luma = _make_buffer(LUMA)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W] of the given format."""
        logits: Tensor = self.module(self.convert(images))
        return logits

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, K] and the feature map [B, c, h, w] of every tap, for images [B, C, H, W] of the given format."""
        return self.inner.outputs(self.convert(images))

    def find_auxiliary(self) -> tuple[int, nn.Module] | None:
        """Return what the network that is given other images has."""
        return self.inner.find_auxiliary()

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return self.inner.classifier

    def convert(self, images: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the given format in the wanted one, [B, c, h, w]."""
        return self.resize(self._normalise(images))

    def resize(self, images: Tensor) -> Tensor:
        """Return images [B, c, H, W] in the wanted size, [B, c, h, w]."""
        size = self.wanted.size
        if size is None or tuple(images.shape[-2:]) == size:
            return images
        mode = {"nearest": "nearest", "bilinear": "bilinear"}.get(self.interpolation, "bicubic")
        placed = place_in((images.shape[-1], images.shape[-2]), size, self.wanted.geometry)
        (width, height), (left, top) = placed
        shrinks = images.shape[-2] > height or images.shape[-1] > width
        smooth = {} if mode == "nearest" else {"antialias": shrinks, "align_corners": False}
        scaled = F.interpolate(images, size=(height, width), mode=mode, **smooth)
        if (height, width) == size:
            return scaled
        return F.pad(scaled, (left, size[1] - width - left, top, size[0] - height - top))  # below 0 it cuts; 0 is the mean

    def _normalise(self, images: Tensor) -> Tensor:
        given, wanted = self.given, self.wanted
        if (given.mean, given.std, given.channels) == (wanted.mean, wanted.std, wanted.channels):
            return images
        shares = images * self.given_std + self.given_mean  # 0 to 1, [B, C, H, W]
        if given.channels == "rgb" and wanted.channels == "bgr":
            shares = shares.flip(1)
        elif given.channels == "rgb" and wanted.channels == "gray":
            shares = (shares * self.luma).sum(dim=1, keepdim=True)
        elif given.channels == "gray" and wanted.channels != "gray":
            shares = shares.expand(-1, 3, -1, -1)
        return (shares - self.wanted_mean) / self.wanted_std


def _make_buffer(values: Sequence[float]) -> nn.Buffer:
    """Return one number for each channel, [1, C, 1, 1]."""
    return nn.Buffer(torch.tensor(values).view(1, -1, 1, 1), persistent=False)


def adapt_input(network: Network, *, given: InputFormat, wanted: InputFormat, interpolation: str = "bilinear") -> Network:
    """Return a network that takes images of the given format; the network itself where both are the same."""
    if given == wanted._replace(size=wanted.size or given.size):
        return network
    return Adapted(network, given=given, wanted=wanted, interpolation=interpolation)


class Reordered(_Around):
    """A network whose classes are in another order than those of its logits.

    Args:
        network: Gives logits [B, L].
        order: Place of each class among these, [K].
    """

    def __init__(self, network: Network, order: Sequence[int]) -> None:
        super().__init__(network, classifier=None)
        self.order = nn.Buffer(torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W]."""
        logits: Tensor = self.module(images)
        return logits[:, self.order]

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits [B, K] and the feature map [B, c, h, w] of every tap, for images [B, C, H, W]."""
        logits, features = self.inner.outputs(images)
        return Outputs(logits[:, self.order], features)

    @property
    def classifier(self) -> nn.Linear:
        """None.

        Raises:
            CompressError: Always: the rows of that layer cannot be brought into the order of the data's classes.
        """
        raise CompressError(
            "the classes of this teacher are in another order and its last linear layer does not give its logits as they are; "
            "methods that use the classifier of a teacher cannot use it"
        )


def reorder_classes(network: Network, order: Sequence[int], image: Tensor) -> Network:
    """Return a network with its classes in another order; its classifier is changed in place where that gives the logits.

    Args:
        network: Gives logits [B, L].
        order: Place of each class among these, [K].
        image: One image, [1, C, H, W], by which it is seen whether the classifier gives the logits as they are.

    Raises:
        CompressError: The network has fewer logits than the order names.
    """
    with evaluating(network):
        before = network(image)
    if before.shape[1] <= max(order):
        raise CompressError(
            f"the teacher gives {before.shape[1]} classes and its class order names {max(order) + 1}; correct it"
        )
    if tuple(order) == tuple(range(before.shape[1])):
        return network
    inner = network.inner if isinstance(network, Adapted) else network
    name = inner.classifier_name
    layer = None if name is None else inner.module.get_submodule(name)
    if name is not None and isinstance(layer, nn.Linear):
        inner.module.set_submodule(name, _select_rows(layer, order))
        if _gives(network, image, before[:, list(order)]):
            return network
        inner.module.set_submodule(name, layer)
    return Reordered(network, order)


class _PlainModule(nn.Module):
    """A network as a module that is not known as one, so that its taps are looked for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W]."""
        logits: Tensor = self.network(images)
        return logits


def adapt_teacher(
    teacher: nn.Module,
    *,
    loader_mean: Sequence[float] | None = None,
    loader_std: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: Channels | None = None,
    image_size: int | tuple[int, int] | None = None,
    classes: Sequence[int] | None = None,
) -> nn.Module:
    """Return a teacher for `compress.distill` that takes the images of the loaders, whatever it was trained on.

    The teacher itself is not changed. Name taps by handing in a `compress.Network`.

    Args:
        teacher: Images [B, c, h, w] to logits [B, L].
        loader_mean: Mean that the loaders took off, on the scale 0 to 1, one for each channel; default 0.
        loader_std: Standard deviation that they divided by; default 1, so that images are from 0 to 1.
        mean: Mean that the teacher wants taken off, in the order in which it takes the channels; default: that of the loaders.
        std: Standard deviation that it wants divided by; default: that of the loaders.
        channels: Which it takes: `rgb`, `bgr` or `gray`; default: those of the loaders, which give RGB, or gray where
            `loader_mean` has one number.
        image_size: Height and width that it wants, or both in this order; images are resized.
        classes: Output of the teacher for each label, [K]; default: the labels themselves.

    Raises:
        CompressError: There is not one number for each channel, or a std is not above 0.

    Example:
        >>> import compress, torch
        >>> from torch import nn
        >>> layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> teacher = compress.adapt_teacher(layers, mean=[0.5] * 3, std=[0.5] * 3, channels="bgr", classes=[1, 0])
        >>> teacher(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 2])
    """
    given_mean = tuple(loader_mean or (0.0,) * len(loader_std or (0.0,) * 3))
    given = InputFormat(given_mean, tuple(loader_std or (1.0,) * len(given_mean)), "rgb" if len(given_mean) == 3 else "gray")
    kind = channels or given.channels
    depth = 1 if kind == "gray" else 3
    own_mean, own_std = (_spread(values, depth, kind) for values in (given.mean, given.std))
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    wanted = InputFormat(tuple(mean or own_mean), tuple(std or own_std), kind, size)
    for what, format_, count in (("loader_mean and loader_std", given, len(given_mean)), ("mean and std", wanted, depth)):
        if not len(format_.mean) == len(format_.std) == count or count not in (1, 3) or min(format_.std) <= 0:
            raise CompressError(f"{what}: are {format_.mean} and {format_.std}; give one number for each channel, std above 0")
    network = teacher if isinstance(teacher, Network) else Network(teacher, taps=())
    adapted = adapt_input(network, given=given, wanted=wanted)
    if classes is not None:
        adapted = Reordered(adapted, classes)
    return adapted if isinstance(teacher, Network) else _PlainModule(adapted)


def _spread(values: tuple[float, ...], depth: int, channels: Channels) -> tuple[float, ...]:
    """Return numbers of RGB or gray for other channels, in their order."""
    if len(values) != depth:
        return (sum(values) / len(values),) * depth
    return values[::-1] if channels == "bgr" else values


def _gives(network: Network, image: Tensor, expected: Tensor) -> bool:
    """Return whether a network gives the expected logits [1, K] for an image [1, C, H, W]."""
    try:
        with evaluating(network):
            found = network(image)
    except RuntimeError:  # what follows the classifier is made for as many classes as there were
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def run_normalised(network: Network, images: Tensor) -> Tensor:
    """Return logits [B, K] for images [B, c, H, W] with the channels and the normalisation that the network itself takes."""
    if isinstance(network, Reordered):
        return run_normalised(network.inner, images)[:, network.order]
    if isinstance(network, Adapted):
        return run_normalised(network.inner, network.resize(images))
    logits: Tensor = network(images)
    return logits


def _select_rows(layer: nn.Linear, order: Sequence[int]) -> nn.Linear:
    rows = list(order)
    chosen = nn.Linear(layer.in_features, len(rows), bias=layer.bias is not None).to(layer.weight)
    with torch.no_grad():
        chosen.weight.copy_(layer.weight[rows])
        if layer.bias is not None:
            chosen.bias.copy_(layer.bias[rows])
    return chosen
