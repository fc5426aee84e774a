"""Networks of torchvision, with random weights; weights trained with torchvision load by the names they have there.

Taps are the last map of each resolution from a quarter of the image on; the deepest is what global average pooling reads.
Any input from 8 × 8 pixels works unless said otherwise. Networks made for photographs halve the map five times, so of images
below 64 pixels hardly a map is left: `output_stride` leaves out the first halvings, as is usual for CIFAR.

Left out are torchvision's transformers, whose stages give tokens or maps [B, h, w, c], while methods read [B, c, h, w];
`timm.deit_tiny_patch16_224` is a transformer, and `compress.Network` takes any module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torchvision import models

from compress.models import Network
from compress.models._adapted import FULL_STRIDE, Sized, keep_size, take_channels
from compress.recipe import Positive, Share

_RESNET_TAPS = ("layer1", "layer2", "layer3", "layer4")
_USUAL_MOMENTUM = 0.1


def _resnet(module: nn.Module, channels: int, output_stride: int) -> Network:
    if output_stride != FULL_STRIDE:
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        module.set_submodule("conv1", stem)
    take_channels(module, "conv1", channels)
    keep_size(module, (("conv1",), ("maxpool",)), output_stride)
    return Network(module, taps=_RESNET_TAPS, classifier="fc")


def _mobile(module: nn.Module, channels: int, output_stride: int, *, halving: str, stages: Sequence[int]) -> Network:
    """Return a network of `features`, of which the stem and `halving` are the first to halve the map, and a `classifier`."""
    take_channels(module, "features.0.0", channels)
    keep_size(module, (("features.0.0",), (halving,)), output_stride)
    last = [name for name, _ in module.named_modules() if name.startswith("classifier.")][-1]
    return Network(module, taps=[f"features.{stage}" for stage in stages], classifier=last)


def _mobilenet_v3(module: nn.Module, channels: int, output_stride: int, *, halving: str, stages: Sequence[int]) -> Network:
    """Return a MobileNetV3 whose batch norms follow the statistics as fast as others.

    torchvision's 0.01 is for hundreds of thousands of steps: after a hundred, a third of what is averaged is still the start.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = _USUAL_MOMENTUM
    return _mobile(module, channels, output_stride, halving=halving, stages=stages)


def resnet18(classes: int, channels: int, *, output_stride: Literal[8, 16, 32] = 32) -> Network:
    """ResNet-18, 11.2 million parameters with 10 classes (He et al., arXiv:1512.03385).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        output_stride: Pixels for each cell of the last map. At 16 the stem is a 3 × 3 convolution that keeps the size, at 8
            max pooling is left out, too; for images below 64 pixels. Weights of a stem of 7 × 7 load at 32 only.
    """
    return _resnet(models.resnet18(num_classes=classes), channels, output_stride)


def resnet34(classes: int, channels: int, *, output_stride: Literal[8, 16, 32] = 32) -> Network:
    """ResNet-34, 21.3 million parameters with 10 classes (He et al., arXiv:1512.03385).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        output_stride: Pixels for each cell of the last map. At 16 the stem is a 3 × 3 convolution that keeps the size, at 8
            max pooling is left out, too; for images below 64 pixels. Weights of a stem of 7 × 7 load at 32 only.
    """
    return _resnet(models.resnet34(num_classes=classes), channels, output_stride)


def resnet50(classes: int, channels: int, *, output_stride: Literal[8, 16, 32] = 32) -> Network:
    """ResNet-50, 23.5 million parameters with 10 classes (He et al., arXiv:1512.03385).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        output_stride: Pixels for each cell of the last map. At 16 the stem is a 3 × 3 convolution that keeps the size, at 8
            max pooling is left out, too; for images below 64 pixels. Weights of a stem of 7 × 7 load at 32 only.
    """
    return _resnet(models.resnet50(num_classes=classes), channels, output_stride)


def mobilenet_v2(
    classes: int, channels: int, *, width: Positive = 1.0, dropout: Share = 0.2, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV2, 2.2 million parameters with 10 classes (Sandler et al., arXiv:1801.04381).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Factor on the channels of every layer.
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = models.mobilenet_v2(num_classes=classes, width_mult=width, dropout=dropout)
    return _mobile(module, channels, output_stride, halving="features.2.conv.1.0", stages=(3, 6, 13, 18))


def mobilenet_v3_small(
    classes: int, channels: int, *, width: Positive = 1.0, dropout: Share = 0.2, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV3-small, 1.5 million parameters with 10 classes (Howard et al., arXiv:1905.02244).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Factor on the channels of every layer.
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = models.mobilenet_v3_small(num_classes=classes, width_mult=width, dropout=dropout)
    return _mobilenet_v3(module, channels, output_stride, halving="features.1.block.0.0", stages=(1, 3, 8, 12))


def mobilenet_v3_large(
    classes: int, channels: int, *, width: Positive = 1.0, dropout: Share = 0.2, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV3-large, 4.2 million parameters with 10 classes (Howard et al., arXiv:1905.02244).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Factor on the channels of every layer.
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = models.mobilenet_v3_large(num_classes=classes, width_mult=width, dropout=dropout)
    return _mobilenet_v3(module, channels, output_stride, halving="features.2.block.1.0", stages=(3, 6, 12, 16))


def efficientnet_b0(
    classes: int, channels: int, *, dropout: Share = 0.2, drop_path: Share = 0.2, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """EfficientNet-B0, 4.0 million parameters with 10 classes (Tan and Le, arXiv:1905.11946).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped before the classifier while training.
        drop_path: Share of images for which the last block is skipped while training; earlier blocks less (stochastic depth).
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = models.efficientnet_b0(num_classes=classes, dropout=dropout, stochastic_depth_prob=drop_path)
    return _mobile(module, channels, output_stride, halving="features.2.0.block.1.0", stages=(2, 3, 5, 8))


def shufflenet_v2_x1_0(classes: int, channels: int, *, output_stride: Literal[8, 16, 32] = 32) -> Network:
    """ShuffleNetV2 of single width, 1.3 million parameters with 10 classes (Ma et al., arXiv:1807.11164).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 max pooling is left out, too;
            for images below 64 pixels. The weights stay the same.
    """
    module = models.shufflenet_v2_x1_0(num_classes=classes)
    take_channels(module, "conv1.0", channels)
    keep_size(module, (("conv1.0",), ("maxpool",)), output_stride)
    return Network(module, taps=("stage2", "stage3", "conv5"), classifier="fc")


def regnet_y_400mf(classes: int, channels: int, *, output_stride: Literal[8, 16, 32] = 32) -> Network:
    """RegNetY of 400 million multiply-adds, 3.9 million parameters with 10 classes (Radosavovic et al., arXiv:2003.13678).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = models.regnet_y_400mf(num_classes=classes)
    take_channels(module, "stem.0", channels)
    first = "trunk_output.block1.block1-0"
    keep_size(module, (("stem.0",), (f"{first}.proj.0", f"{first}.f.b.0")), output_stride)
    return Network(module, taps=[f"trunk_output.block{stage}" for stage in (1, 2, 3, 4)], classifier="fc")


def convnext_tiny(classes: int, channels: int, *, drop_path: Share = 0.1) -> Network:
    """ConvNeXt-T, 27.8 million parameters with 10 classes, for images from 32 × 32 pixels (Liu et al., arXiv:2201.03545).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        drop_path: Share of images for which the last block is skipped while training; earlier blocks less (stochastic depth).
    """
    module = models.convnext_tiny(num_classes=classes, stochastic_depth_prob=drop_path)
    take_channels(module, "features.0.0", channels)
    taps = [f"features.{stage}" for stage in (1, 3, 5, 7)]
    return Sized(module, taps=taps, classifier="classifier.2", smallest=FULL_STRIDE)
