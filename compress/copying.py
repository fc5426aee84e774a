"""Copy modules whatever they hold."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

Copied = TypeVar("Copied", bound=nn.Module)


def copy_module(module: Copied) -> Copied:
    """Return a deep copy of a module, also where torch refuses one because a tensor in it was computed with gradients.

    `torch.nn.utils.weight_norm` and `spectral_norm` keep such a weight, and compute it anew in each pass.

    Raises:
        RuntimeError: It holds something else that cannot be copied.
        TypeError: The same.
    """
    kept = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    computed = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    return copy.deepcopy(module, computed)
