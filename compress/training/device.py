"""The device that networks are trained on."""

from __future__ import annotations

import torch

from compress.errors import CompressError


def choose_device(name: str) -> torch.device:
    """Return the device that a recipe asks for; `auto` is the GPU where there is one, on which convolutions then use no TF32.

    Raises:
        CompressError: It is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise CompressError("train.device: 'cuda' is asked for and torch sees no CUDA device; use 'auto' or 'cpu'")
    chosen = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; less is asked for by `precision`
    return chosen
