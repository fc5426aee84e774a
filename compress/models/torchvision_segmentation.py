"""Networks for segmentation of torchvision, with random weights; weights trained there load by the names they have there.

Logits are maps at the stride of the head, an eighth or a sixteenth of the image's size, as they are before torchvision enlarges
them to the image. Taps are the last map of each resolution, and what the head classifies. With `auxiliary: true` there is a
second head, as in torchvision's own weights for COCO, which are not loaded without it; it is trained and taught beside the
first one, and not exported.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import segmentation

from compress.models import Auxiliary, Network
from compress.models._adapted import Sized, take_channels

_USUAL_MOMENTUM = 0.1
_LEAST_SIZE = 32


class _BeforeResizing(nn.Module):
    """A network of torchvision up to its logits at the head's stride, with its names of layers."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.backbone = whole.get_submodule("backbone")
        self.classifier = whole.get_submodule("classifier")
        if getattr(whole, "aux_classifier", None) is not None:
            self.aux_classifier = whole.get_submodule("aux_classifier")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        logits: Tensor = self.classifier(maps.get("out", maps))
        return logits


_MOBILE_TAPS = ("backbone.1", "backbone.3", "backbone.6", "backbone.16")
_RESNET_TAPS = ("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4")


def _wrap(whole: nn.Module, channels: int, *, first: str, taps: Sequence[str]) -> Network:
    module = _BeforeResizing(whole)
    take_channels(module, first, channels)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = _USUAL_MOMENTUM  # torchvision's 0.01 in MobileNetV3 is for hundreds of thousands of steps
    auxiliary = _find_auxiliary(module)
    if auxiliary is not None and auxiliary.tap not in taps:
        taps = sorted([*taps, auxiliary.tap], key=[name for name, _ in module.named_modules()].index)
    return Sized(module, taps=taps, classifier=None, smallest=_LEAST_SIZE, auxiliary=auxiliary)


def _find_auxiliary(module: _BeforeResizing) -> Auxiliary | None:
    """Return the second head and the layer on whose map it stands, as torchvision's backbone names it."""
    if not hasattr(module, "aux_classifier"):
        return None
    layers: dict[str, str] = module.backbone.return_layers  # type: ignore[assignment]  # a module's attributes have no types
    return Auxiliary(next(f"backbone.{layer}" for layer, name in layers.items() if name == "aux"), "aux_classifier")


def lraspp_mobilenet_v3_large(classes: int, channels: int) -> Network:
    """LR-ASPP on MobileNetV3-large, logits at an eighth, 3.2 million parameters (Howard et al., arXiv:1905.02244).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
    """
    whole = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    return _wrap(whole, channels, first="backbone.0.0", taps=(*_MOBILE_TAPS, "classifier.cbr"))


def deeplabv3_mobilenet_v3_large(classes: int, channels: int, *, auxiliary: bool = False) -> Network:
    """DeepLabV3 on MobileNetV3-large, logits at a sixteenth, 11.0 million parameters (Chen et al., arXiv:1706.05587).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        auxiliary: Whether there is a second head, `aux_classifier`, as in published weights.
    """
    whole = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary
    )
    return _wrap(whole, channels, first="backbone.0.0", taps=(*_MOBILE_TAPS, "classifier.3"))


def deeplabv3_resnet50(classes: int, channels: int, *, auxiliary: bool = False) -> Network:
    """DeepLabV3 on ResNet-50, logits at an eighth, 39.6 million parameters (Chen et al., arXiv:1706.05587).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        auxiliary: Whether there is a second head, `aux_classifier`, as in published weights.
    """
    whole = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary)
    return _wrap(whole, channels, first="backbone.conv1", taps=(*_RESNET_TAPS, "classifier.3"))


def fcn_resnet50(classes: int, channels: int, *, auxiliary: bool = False) -> Network:
    """FCN on ResNet-50, logits at an eighth, 32.9 million parameters (Long et al., arXiv:1411.4038).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        auxiliary: Whether there is a second head, `aux_classifier`, as in published weights.
    """
    whole = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary)
    return _wrap(whole, channels, first="backbone.conv1", taps=(*_RESNET_TAPS, "classifier.2"))
