"""Merge the parallel branches of networks that are trained with more than they need (RepVGG, MobileOne, FastViT, RepViT).

Such blocks add the outputs of several convolutions while they are trained, and know how to become a single one: by a method
`switch_to_deploy` or `reparameterize`, or in timm by `fuse`, which returns what takes their place. A file holds the merged
network; that it computes the same is checked here in float32, and by the gate on the file's own runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress.errors import CompressError

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS = ("switch_to_deploy", "reparameterize")
"""By which a block merges its own branches; the names of RepVGG's and MobileOne's authors."""
SAME = 1e-3
"""Largest difference in units of the logits' standard deviation: sums in another order, and weights that were multiplied."""


def merge_branches(network: nn.Module) -> bool:
    """Merge all branches of a network in place, and return whether there were any."""
    before = sum(1 for _ in network.modules())
    own = [(part, name) for part in _list_others(network) for name in METHODS if callable(getattr(part, name, None))]
    for part, name in own:
        getattr(part, name)()
    for parent, name, part in list(_list_of_timm(network)):
        from timm.utils.model import reparameterize_model

        setattr(parent, name, reparameterize_model(part, inplace=True))
    return bool(own) or sum(1 for _ in network.modules()) != before


def _list_others(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that are not timm's."""
    for part in network.modules():
        if not type(part).__module__.startswith("timm."):
            yield part


def _list_of_timm(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield the outermost modules of timm within a network, each with what holds it and its name there."""
    if "timm" not in sys.modules:
        return
    for name, part in network.named_children():
        if type(part).__module__.startswith("timm."):
            yield network, name, part
        else:
            yield from _list_of_timm(part)


def refuse_other_answers(before: Tensor, after: Tensor, name: str) -> None:
    """Refuse a network whose logits [B, K] are others after its branches were merged.

    Raises:
        CompressError: They are, by more than rounding.
    """
    difference = float((after - before).abs().max() / before.std().clamp_min(1e-12))
    if not difference <= SAME:
        raise CompressError(
            f"export of {name}: its branches cannot be merged: afterwards its logits differ by {difference:.2g} of their "
            f"standard deviation; mend its {' or '.join(METHODS)}, or remove the method"
        )
