"""Make a `Network` of any module: taps and classifier are found by watching one pass.

A tap is the last map of each resolution, the outermost layer that gives it, and only what can be tapped: a map [B, c, h, w]
that comes once in a pass and that no later layer overwrites. Networks without maps, such as transformers, have no taps. The
classifier is the linear layer whose output is the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.models._network import Network

MOST_TAPS = 4
"""Of the resolutions that a network has, so many of the deepest are tapped."""


class _Seen(NamedTuple):
    """What a layer gave in one pass."""

    name: str
    output: Tensor
    version: int


def wrap_module(
    module: nn.Module,
    image: Tensor,
    *,
    name: str,
    taps: Sequence[str] | None = None,
    logits: Callable[[Any], Tensor] | None = None,
) -> Network:
    """Return a network around a module, which is left as it is; a `Network` comes back as it was given.

    Args:
        module: Maps images [B, C, H, W] to logits [B, K].
        image: One image [1, C, H, W], on the device of the module.
        name: What the module is called in messages.
        taps: Names of the tapped layers; default: those that are found.
        logits: As for `Network`.

    Raises:
        CompressError: It is no module, does not run on the image, or a tap is not there.
    """
    if isinstance(module, Network):
        return module
    if not isinstance(module, nn.Module):
        raise CompressError(f"{name}: is a {type(module).__name__}, not a torch.nn.Module; return the network itself")
    seen, output = _watch_pass(module, image, name)
    output = output if logits is None or isinstance(output, Tensor) else logits(output)
    found = _find_taps(seen) if taps is None else taps
    return Network(module, taps=found, classifier=_find_classifier(module, seen, output), logits=logits)


def _watch_pass(module: nn.Module, image: Tensor, name: str) -> tuple[list[_Seen], Any]:
    """Return what each layer gave for an image [1, C, H, W], in the order in which they ended, and the output."""
    seen: list[_Seen] = []
    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, layer_name=layer_name: seen.extend(
                [_Seen(layer_name, output, output._version)] if isinstance(output, Tensor) else []
            )
        )
        for layer_name, layer in module.named_modules()
        if layer_name
    ]
    try:
        with evaluating(module):
            return seen, module(image)
    except Exception as error:  # the module is the user's, and may raise anything
        reason = str(error).partition("\n")[0] or "no message"
        raise CompressError(
            f"{name}: cannot take images {list(image.shape)}: {type(error).__name__}: {reason}; give it images of the size and "
            "channels that it takes, or mend it"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _find_taps(seen: Sequence[_Seen]) -> list[str]:
    """Return the names of the layers that give the last map of each resolution, shallow to deep."""
    names = [each.name for each in seen]
    last: dict[tuple[int, int], str] = {}
    for each in seen:
        if each.output.dim() != 4 or names.count(each.name) > 1 or each.output._version != each.version:
            continue
        channels, height, width = each.output.shape[1:]
        if min(height, width) > 1 and not (channels == height != width):  # else pooled, or with the channels last
            last.pop((height, width), None)  # so that a resolution stands where it was seen last
            last[height, width] = each.name
    return list(last.values())[-MOST_TAPS:]


def _find_classifier(module: nn.Module, seen: Sequence[_Seen], output: object) -> str | None:
    """Return the name of the linear layer that gives the logits [1, K]."""
    if isinstance(output, Tensor):
        for each in reversed(seen):
            if isinstance(module.get_submodule(each.name), nn.Linear) and _is_same(each.output, output):
                return each.name
    return None


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
