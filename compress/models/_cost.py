"""Cost of a network: its parameters and its multiply-accumulates."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.freezing import evaluating
from compress.models._network import Network


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, buffers and an auxiliary classifier not counted."""
    auxiliary = module.find_auxiliary() if isinstance(module, Network) else None
    further = 0 if auxiliary is None else count_parameters(auxiliary[1])
    return sum(parameter.numel() for parameter in module.parameters()) - further


def count_macs(module: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for one image [1, C, H, W]; modes are restored."""
    with evaluating(module), FlopCounterMode(display=False) as counter:
        module(image)
    return int(counter.get_total_flops()) // 2
