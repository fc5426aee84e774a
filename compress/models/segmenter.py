"""Networks for segmentation: any backbone with taps, and a light decoder that goes from the deepest map up.

Logits are maps at the stride of the shallowest map that is decoded, a quarter of the image's size unless `output_stride` says
otherwise; they are not enlarged to the image. Taps are the stages of the backbone, and the decoder's last map. Weights of a
backbone trained for classification have the names that they have there, below `backbone.body.`.

Source: a feature pyramid (Lin et al., arXiv:1612.03144) whose shallowest level is classified, as in Kirillov et al.,
arXiv:1901.02446; depthwise separable convolutions as in Sandler et al., arXiv:1801.04381.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from compress import plugins
from compress.errors import CompressError
from compress.models import Network
from compress.models._pyramid import Backbone, Convolutions, TopDown
from compress.recipe import Count, Text


class Segmenter(nn.Module):
    """A backbone, a decoder, and a 1 × 1 convolution that tells the class of each cell.

    Args:
        backbone: Images [B, C, H, W] to maps [B, c, h, w], shallow to deep.
        classes: Number of classes.
        decoder_channels: Of each level.
        output_stride: Pixels for each cell of the logits; shallower maps are not decoded. `None` decodes all.
        separable: As for `TopDown`.
        name: What the network is called in messages.

    Raises:
        CompressError: The backbone gives no maps of that stride.
    """

    def __init__(
        self, backbone: Backbone | Convolutions, classes: int, *, decoder_channels: int, output_stride: int | None,
        separable: bool, name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.skipped = sum(stride < (output_stride or 0) for stride in backbone.strides)
        if output_stride is not None and output_stride not in backbone.strides:
            shown = ", ".join(map(str, sorted(set(backbone.strides))))
            raise CompressError(f"{name}: output_stride {output_stride} is none of its maps' ({shown}); use one of them")
        self.backbone = backbone
        self.decoder = TopDown(backbone.widths[self.skipped :], decoder_channels, separable=separable)
        self.decoded = nn.Identity()
        self.classifier = nn.Conv2d(decoder_channels, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K, h, w] for images [B, C, H, W]."""
        maps = self.backbone(images)[self.skipped :]
        logits: Tensor = self.classifier(self.decoded(self.decoder(maps)[0]))
        return logits


def _build(
    backbone: Backbone | Convolutions, classes: int, *, name: str, decoder_channels: int, output_stride: int | None = None,
    separable: bool = False,
) -> Network:  # fmt: skip
    module = Segmenter(
        backbone, classes, decoder_channels=decoder_channels, output_stride=output_stride, separable=separable, name=name
    )
    first = len(backbone.stages) - len(backbone.widths)  # a stem is not tapped
    stages = [f"backbone.stages.{place}" for place in range(first, len(backbone.stages))]
    return Network(module, taps=[*stages, "decoded"])


def _build_on(
    model: str, classes: int, channels: int, *, name: str, decoder_channels: int, output_stride: int | None, **options: object
) -> Network:
    backbone = Backbone(plugins.load("models", model)(classes, channels, **options), channels, name=name)
    return _build(backbone, classes, name=name, decoder_channels=decoder_channels, output_stride=output_stride, separable=True)


def tiny(classes: int, channels: int, *, width: Count = 8) -> Network:
    """A student for small images, 0.02 million parameters: four 3 × 3 convolutions and a decoder, all of them plain.

    Below some hundred pixels a plain convolution is quicker than the two that would replace it.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Channels of the first layer; the others have two and four times as many.
    """
    backbone = Convolutions((width, 2 * width, 4 * width, 4 * width), channels, blocks=0)
    return _build(backbone, classes, name="segmenter.tiny", decoder_channels=2 * width)


def small(classes: int, channels: int, *, width: Count = 16) -> Network:
    """A teacher for small images, 0.4 million parameters: stages of residual blocks and a decoder.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        width: Channels of the first layer; the others have two, four and six times as many.
    """
    backbone = Convolutions((width, 2 * width, 4 * width, 6 * width), channels, blocks=1)
    return _build(backbone, classes, name="segmenter.small", decoder_channels=2 * width)


def resnet18(classes: int, channels: int, *, decoder_channels: Count = 64, output_stride: Literal[4, 8, 16] = 4) -> Network:
    """ResNet-18 of torchvision with a decoder, 11.3 million parameters (He et al., arXiv:1512.03385).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        decoder_channels: Channels of each level of the decoder.
        output_stride: Pixels for each cell of the logits.
    """
    return _build_on(
        "torchvision.resnet18", classes, channels, name="segmenter.resnet18", decoder_channels=decoder_channels,
        output_stride=output_stride,
    )  # fmt: skip


def mobilenet_v2(classes: int, channels: int, *, decoder_channels: Count = 32, output_stride: Literal[4, 8, 16] = 4) -> Network:
    """MobileNetV2 of torchvision with a decoder, 2.3 million parameters (Sandler et al., arXiv:1801.04381).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        decoder_channels: Channels of each level of the decoder.
        output_stride: Pixels for each cell of the logits.
    """
    return _build_on(
        "torchvision.mobilenet_v2", classes, channels, name="segmenter.mobilenet_v2", decoder_channels=decoder_channels,
        output_stride=output_stride,
    )  # fmt: skip


def any(  # noqa: A001 (as a recipe says it: segmenter.any)
    classes: int, channels: int, *, backbone: Text, decoder_channels: Count = 32, output_stride: Count | None = None
) -> Network:
    """A decoder on any network of this list that has taps which are maps.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        backbone: A network for classification, as a recipe names it: `torchvision.shufflenet_v2_x1_0`.
        decoder_channels: Channels of each level of the decoder.
        output_stride: Pixels for each cell of the logits: the stride of one of the backbone's taps; default the shallowest.

    Raises:
        CompressError: There is no such network, or it has no such maps.
    """
    return _build_on(
        backbone, classes, channels, name=f"segmenter.any: {backbone}", decoder_channels=decoder_channels,
        output_stride=output_stride,
    )  # fmt: skip


def timm(
    classes: int, channels: int, *, architecture: Text, decoder_channels: Count = 32, output_stride: Count | None = None
) -> Network:
    """A decoder on any network of timm whose features are maps. Extra: `timm`.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        architecture: What timm calls it, without the name of weights: `mobilenetv4_conv_small`.
        decoder_channels: Channels of each level of the decoder.
        output_stride: Pixels for each cell of the logits: the stride of one of the backbone's taps; default the shallowest.

    Raises:
        CompressError: timm has no such network, or it has no such maps.
    """
    return _build_on(
        "timm.any", classes, channels, name=f"segmenter.timm: {architecture}", decoder_channels=decoder_channels,
        output_stride=output_stride, architecture=architecture,
    )  # fmt: skip
