"""Networks for object detection: any backbone with taps, a light neck, and one answer for each cell of one to three maps.

Anchor-free and one-stage. An answer [B, A, K + 4] is the logits of the classes and a box in pixels; files give the two as
outputs of their own. Taps are the stages of the backbone, and the maps of the neck that the heads read. Weights of a backbone
trained for classification have the names that they have there, below `backbone.body.`. Two-stage detectors are not offered:
what they classify has a number and shapes that depend on the image, which no format holds.

Source: FCOS, arXiv:1904.01355, on a feature pyramid (arXiv:1612.03144).
"""

from __future__ import annotations

from typing import Literal

from compress import plugins
from compress.models import Network
from compress.models._detection_head import Detector
from compress.models._pyramid import Backbone, Convolutions
from compress.recipe import Count, Text


def _build(
    backbone: Backbone | Convolutions, classes: int, *, name: str, neck_channels: int, first_stride: int, levels: int,
    separable: bool = False,
) -> Network:  # fmt: skip
    module = Detector(
        backbone, classes, channels=neck_channels, first_stride=first_stride, levels=levels, separable=separable, name=name
    )
    first = len(backbone.stages) - len(backbone.widths)  # a stem is not tapped
    stages = [f"backbone.stages.{place}" for place in range(first, len(backbone.stages))]
    return Network(module, taps=[*stages, *(f"levels.{place}" for place in range(levels))])


def _build_on(
    model: str, classes: int, channels: int, *, name: str, neck_channels: int, first_stride: int, levels: int, **options: object
) -> Network:
    backbone = Backbone(plugins.load("models", model)(classes, channels, **options), channels, name=name)
    return _build(
        backbone, classes, name=name, neck_channels=neck_channels, first_stride=first_stride, levels=levels, separable=True
    )


def tiny(
    classes: int, channels: int, *, width: Count = 8, first_stride: Literal[4, 8, 16] = 8, levels: Literal[1, 2] = 1
) -> Network:
    """A student for small images, 0.03 million parameters: four 3 × 3 convolutions, a neck and a head, all of them plain.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Channels of the first layer; the others have two and four times as many.
        first_stride: Pixels for each cell of the first map that answers.
        levels: Maps that answer, each of twice the stride.
    """
    backbone = Convolutions((width, 2 * width, 4 * width, 4 * width), channels, blocks=0)
    return _build(backbone, classes, name="detector.tiny", neck_channels=2 * width, first_stride=first_stride, levels=levels)


def small(
    classes: int, channels: int, *, width: Count = 16, first_stride: Literal[4, 8, 16] = 8, levels: Literal[1, 2] = 1
) -> Network:
    """A teacher for small images, 0.4 million parameters: stages of residual blocks, a neck and a head.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Channels of the first layer; the others have two, four and six times as many.
        first_stride: Pixels for each cell of the first map that answers.
        levels: Maps that answer, each of twice the stride.
    """
    backbone = Convolutions((width, 2 * width, 4 * width, 6 * width), channels, blocks=1)
    return _build(backbone, classes, name="detector.small", neck_channels=2 * width, first_stride=first_stride, levels=levels)


def resnet18(
    classes: int,
    channels: int,
    *,
    neck_channels: Count = 64,
    first_stride: Literal[4, 8, 16, 32] = 8,
    levels: Literal[1, 2, 3] = 3,
) -> Network:
    """ResNet-18 of torchvision as a detector, 11.4 million parameters (He et al., arXiv:1512.03385).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        neck_channels: Channels of each level of the neck.
        first_stride: Pixels for each cell of the first map that answers.
        levels: Maps that answer, each of twice the stride.
    """
    return _build_on(
        "torchvision.resnet18", classes, channels, name="detector.resnet18", neck_channels=neck_channels,
        first_stride=first_stride, levels=levels,
    )  # fmt: skip


def mobilenet_v2(
    classes: int,
    channels: int,
    *,
    neck_channels: Count = 32,
    first_stride: Literal[4, 8, 16, 32] = 8,
    levels: Literal[1, 2, 3] = 3,
) -> Network:
    """MobileNetV2 of torchvision as a detector, 2.3 million parameters (Sandler et al., arXiv:1801.04381).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        neck_channels: Channels of each level of the neck.
        first_stride: Pixels for each cell of the first map that answers.
        levels: Maps that answer, each of twice the stride.
    """
    return _build_on(
        "torchvision.mobilenet_v2", classes, channels, name="detector.mobilenet_v2", neck_channels=neck_channels,
        first_stride=first_stride, levels=levels,
    )  # fmt: skip


def any(  # noqa: A001 (as a recipe says it: detector.any)
    classes: int,
    channels: int,
    *,
    backbone: Text,
    neck_channels: Count = 32,
    first_stride: Count = 8,
    levels: Literal[1, 2, 3] = 3,
) -> Network:
    """A detector on any network of this list that has taps which are maps.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        backbone: A network for classification, as a recipe names it: `torchvision.shufflenet_v2_x1_0`.
        neck_channels: Channels of each level of the neck.
        first_stride: Pixels for each cell of the first map that answers: the stride of one of the backbone's taps.
        levels: Maps that answer, each of twice the stride.

    Raises:
        CompressError: There is no such network, or it has no such maps.
    """
    return _build_on(
        backbone, classes, channels, name=f"detector.any: {backbone}", neck_channels=neck_channels, first_stride=first_stride,
        levels=levels,
    )  # fmt: skip


def timm(
    classes: int,
    channels: int,
    *,
    architecture: Text,
    neck_channels: Count = 32,
    first_stride: Count = 8,
    levels: Literal[1, 2, 3] = 3,
) -> Network:
    """A detector on any network of timm whose features are maps. Extra: `timm`.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        architecture: What timm calls it, without the name of weights: `mobilenetv4_conv_small`.
        neck_channels: Channels of each level of the neck.
        first_stride: Pixels for each cell of the first map that answers: the stride of one of the backbone's taps.
        levels: Maps that answer, each of twice the stride.

    Raises:
        CompressError: timm has no such network, or it has no such maps.
    """
    return _build_on(
        "timm.any", classes, channels, name=f"detector.timm: {architecture}", neck_channels=neck_channels,
        first_stride=first_stride, levels=levels, architecture=architecture,
    )  # fmt: skip
