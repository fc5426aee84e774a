"""Two outputs of a teacher and the store that keeps them, for tests and for the processes that they start."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.teachers.store import StoredSignal

ROWS = 20


LOGITS = StoredSignal("teacher logits", "a" * 64, (ROWS, 5))


MAP = StoredSignal("teacher layer1", "b" * 64, (ROWS, 3, 4, 4))


def outputs(output: StoredSignal, view: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(view)
    return torch.randn(output.shape, generator=generator)
