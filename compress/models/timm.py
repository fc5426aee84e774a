"""Networks of timm, with random weights; weights trained with timm load by the names they have there. Extra: `timm`.

Taps are the last map of each resolution from a quarter of the image on. Any input from 8 × 8 pixels works unless said
otherwise. Networks made for photographs halve the map five times, so of images below 64 pixels hardly a map is left:
`output_stride` leaves out the first halvings, as is usual for CIFAR. `timm.any` builds the rest of what timm has.

Taps of transformers give tokens [B, t, c]. Methods on logits work with them, and the heads of `dih`; methods that compare maps
refuse them by name. `token_maps: true` lays the tokens of the patches out as maps, which those methods read.

Source: Wightman, PyTorch Image Models, huggingface/pytorch-image-models; papers are named at each network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal

import timm
import torch
from torch import nn

from compress.errors import CompressError
from compress.models import Network, find_shapes
from compress.models._adapted import Sized, keep_size
from compress.recipe import Count, Listing, Share, Text

_FLAT_TAPS = 4
"""How many blocks of a network are tapped that never changes its resolution."""


def mobilenetv3_small_050(
    classes: int, channels: int, *, dropout: Share = 0.0, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV3-small of half width, 0.6 million parameters with 10 classes (Howard et al., arXiv:1905.02244).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = _create("mobilenetv3_small_050", classes, channels, drop_rate=dropout)
    return _wrap_mobile(module, output_stride, "blocks.0.0.conv_dw", ("blocks.0", "blocks.1", "blocks.3", "blocks.5"))


def mobilenetv3_small_100(
    classes: int, channels: int, *, dropout: Share = 0.0, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV3-small, 1.5 million parameters with 10 classes (Howard et al., arXiv:1905.02244).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = _create("mobilenetv3_small_100", classes, channels, drop_rate=dropout)
    return _wrap_mobile(module, output_stride, "blocks.0.0.conv_dw", ("blocks.0", "blocks.1", "blocks.3", "blocks.5"))


def mobilenetv4_conv_small(
    classes: int, channels: int, *, dropout: Share = 0.0, output_stride: Literal[8, 16, 32] = 32
) -> Network:
    """MobileNetV4-Conv-S, 2.5 million parameters with 10 classes (Qin et al., arXiv:2404.10518).

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped before the classifier while training.
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = _create("mobilenetv4_conv_small", classes, channels, drop_rate=dropout)
    return _wrap_mobile(module, output_stride, "blocks.0.0.conv", ("blocks.0", "blocks.1", "blocks.2", "blocks.4"))


def efficientnet_lite0(
    classes: int,
    channels: int,
    *,
    dropout: Share = 0.0,
    drop_path: Share = 0.0,
    output_stride: Literal[8, 16, 32] = 32,
) -> Network:
    """EfficientNet-Lite0, 3.4 million parameters with 10 classes (Tan and Le, arXiv:1905.11946).

    EfficientNet-B0 without squeeze-and-excitation and with ReLU6, so that it stands int8.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        dropout: Share of activations that is dropped before the classifier while training.
        drop_path: Share of images for which the last block is skipped while training; earlier blocks less (stochastic depth).
        output_stride: Pixels for each cell of the last map. At 16 the stem keeps the size, at 8 the next halving is left out,
            too; for images below 64 pixels. The weights stay the same.
    """
    module = _create("efficientnet_lite0", classes, channels, drop_rate=dropout, drop_path_rate=drop_path)
    return _wrap_mobile(module, output_stride, "blocks.1.0.conv_dw", ("blocks.1", "blocks.2", "blocks.4", "bn2"))


def deit_tiny_patch16_224(
    classes: int,
    channels: int,
    *,
    image_size: Count = 224,
    patch_size: Count = 16,
    drop_path: Share = 0.0,
    token_maps: bool = False,
) -> Network:
    """DeiT-Ti, 5.5 million parameters with 10 classes (Touvron et al., arXiv:2012.12877).

    A vision transformer of 12 blocks and 192 channels (Dosovitskiy et al., arXiv:2010.11929). Taps are every third block and
    give tokens [B, 1 + n, 192], the class token first.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        image_size: Height and width of the images in pixels; it takes no others. Weights fit the size they were made for.
        patch_size: Height and width of a patch in pixels, which must divide `image_size`: 4 for 32 × 32 pixels.
        drop_path: Share of images for which the last block is skipped while training; earlier blocks less (stochastic depth).
        token_maps: Give the tokens of the patches as maps [B, 192, h, w], for methods that compare maps.

    Raises:
        CompressError: The patches do not divide the image.
    """
    if image_size % patch_size:
        raise CompressError(
            f"timm.deit_tiny_patch16_224: patch_size {patch_size} does not divide image_size {image_size}; use one that does"
        )
    module = _create(
        "deit_tiny_patch16_224", classes, channels, img_size=image_size, patch_size=patch_size, drop_path_rate=drop_path
    )
    taps = [info["module"] for info in _list_stages(_read_feature_info(module))]
    prefix = _count_prefix_tokens(module) if token_maps else None
    return Sized(module, taps=taps, classifier="head", smallest=image_size, largest=image_size, prefix_tokens=prefix)


def any(  # noqa: A001 (as a recipe says it: timm.any)
    classes: int,
    channels: int,
    *,
    architecture: Text,
    image_size: Count | None = None,
    taps: Listing[Text] | None = None,
    dropout: Share = 0.0,
    token_maps: bool = False,
) -> Network:
    """Any network of timm, with random weights; it is tried on one image when it is built.

    Args:
        classes: Number of classes.
        channels: 1 (gray) or 3 (RGB).
        architecture: What timm calls it, without the name of weights: `repvit_m0_9`.
        image_size: Height and width of the images in pixels; default the one that timm names. Networks that take one size
            only are built for it.
        taps: Names of layers whose outputs are the features, shallow to deep; default the last of each resolution that timm
            names, or four blocks if there is one resolution.
        dropout: Share of activations that is dropped before the classifier while training.
        token_maps: Give the tokens of a transformer's patches as maps [B, c, h, w], for methods that compare maps; those of
            classes and registers have no place in the image and are left out.

    Raises:
        CompressError: timm has no such network, or it names no taps, or the network does not take such images.
    """
    fixed, side = _find_sizes(architecture, image_size)
    built_for = {"img_size": side} if fixed else {}
    with _explain_errors(architecture, channels, side):
        module = _create(architecture, classes, channels, drop_rate=dropout, **built_for)
    names = [info["module"] for info in _list_stages(_read_feature_info(module))] if taps is None else taps
    if taps is None and not names:
        raise CompressError(
            f"timm.any: timm names no feature maps of {architecture!r}; give taps: [LAYER, ...], or taps: [] for methods "
            "on logits"
        )
    exactly = side if fixed else None
    prefix = _count_prefix_tokens(module) if token_maps else None
    network = Sized(
        module, taps=names, classifier=_find_classifier(module), smallest=exactly or 1, largest=exactly, prefix_tokens=prefix
    )
    with _explain_errors(architecture, channels, side):
        find_shapes(network, torch.zeros(1, channels, side, side))
    return network


def _create(architecture: str, classes: int, channels: int, **options: object) -> nn.Module:
    module: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=classes, in_chans=channels, **options)
    for layer in module.modules():  # an activation in place could overwrite what is tapped
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]  # a plain attribute
    return module


def _wrap_mobile(module: nn.Module, output_stride: int, halving: str, taps: Sequence[str]) -> Network:
    keep_size(module, (("conv_stem",), (halving,)), output_stride)
    return Network(module, taps=taps, classifier="classifier")


def _count_prefix_tokens(module: nn.Module) -> int:
    """Return how many tokens of classes and registers stand before those of the patches."""
    count: int = getattr(module, "num_prefix_tokens", 0)
    return count


def _read_feature_info(module: nn.Module) -> Sequence[Mapping[str, Any]]:
    """Return timm's feature information on the layers of a network, shallow to deep."""
    known: Sequence[Mapping[str, Any]] = getattr(module, "feature_info", ())
    return known


def _list_stages(known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last of what timm names at each resolution from a quarter on; of one resolution, some at equal distances."""
    last = list({info["reduction"]: info for info in known}.values())
    if len(last) == 1 and len(known) >= _FLAT_TAPS:
        return [known[(place + 1) * len(known) // _FLAT_TAPS - 1] for place in range(_FLAT_TAPS)]
    return [info for info in last if info["reduction"] >= 4] or last


def _find_sizes(architecture: str, image_size: int | None) -> tuple[bool, int]:
    """Return whether a network takes one size only, and the size to build and try it with."""
    known = timm.list_models()
    if architecture not in known:
        near = get_close_matches(architecture.partition(".")[0], known, n=3)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise CompressError(f"timm.any: timm {timm.__version__} has no architecture {architecture!r}; {advice}")
    facts = timm.get_pretrained_cfg(architecture)
    usual = facts.input_size[-1] if facts is not None else 224
    return bool(facts is not None and facts.fixed_input_size), image_size or usual


def _find_classifier(module: nn.Module) -> str | None:
    """Return the name of the last linear layer, if there is one alone."""
    layer = module.get_classifier()  # type: ignore[operator]  # every network of timm has it
    return next((name for name, other in module.named_modules() if other is layer and isinstance(other, nn.Linear)), None)


@contextmanager
def _explain_errors(architecture: str, channels: int, side: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CompressError(
            f"timm.any: {architecture} does not take images of {[channels, side, side]} ({reason}); give another image_size, "
            "or another architecture"
        ) from error
