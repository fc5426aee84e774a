"""Drift of the weights of a network (ATSC 2406.08528), and weights of losses (DSKD 2202.07846)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses._samples import refuse_temperature, require_same_shape, widen


def drift(parameters: Iterable[Tensor], anchors: Iterable[Tensor]) -> Tensor:
    """Return the sum of squared differences between parameters and where they started, [].

    Args:
        parameters: Tensors that move and receive the gradient.
        anchors: Tensors of the same shapes, in the same order, that do not.

    Raises:
        ValueError: The two do not pair up, or there are none.

    Source:
        ATSC 2406.08528; random2314235/ATSC 8bde1b2: a sum, not a mean.
    """
    pairs = list(zip(parameters, anchors, strict=True))
    if not pairs:
        raise ValueError("drift of no parameters is not defined; give at least one")
    for here, there in pairs:
        require_same_shape(here, there, "a parameter and its anchor")
    total: Tensor = torch.stack([(widen(here) - widen(there).detach()).square().sum() for here, there in pairs]).sum()
    return total


def softmax_weights(losses: Sequence[Tensor | float] | Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return weights that sum to one, larger for larger losses, through which no gradient flows.

    Args:
        losses: Scalars, or one tensor [L].
        temperature: Divides the losses before the softmax; larger is more even.

    Raises:
        ValueError: There are no losses, they are no scalars, or the temperature is not above 0.

    Source:
        DSKD 2202.07846 as re-implemented by its readers; the direction is a proposal, not confirmed against the paper.
    """
    refuse_temperature(temperature)
    if not isinstance(losses, Tensor) and len(losses) == 0:
        raise ValueError("weights of no losses are not defined; give at least one")
    stacked = losses if isinstance(losses, Tensor) else torch.stack([torch.as_tensor(loss) for loss in losses])
    if stacked.dim() != 1 or stacked.numel() == 0:
        raise ValueError(f"losses have shape {list(stacked.shape)}; give scalars, at least one, or one tensor [L]")
    return F.softmax(widen(stacked).detach() / temperature, dim=0)
