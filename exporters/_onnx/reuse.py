"""Reuse of what exports make of a network on the way, for several files of the same network.

Tracing a network and translating it into ONNX takes most of the time of its export, and gives the same for every precision and
for every format that is made of it. Within `reuse_graphs()` a network is traced once for each batch, and translated once for
each opset and batch. What is made of one network is kept, the last that was exported; its weights are compared, but not its
code, so nobody may change the code in the meantime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from exporters._torch.trace import list_tensors, trace

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram

Made = TypeVar("Made")


@dataclass
class _Kept:
    """What was made of one network: its programs, and its graphs, serialised."""

    module: nn.Module | None = None
    weights: str = ""
    made: dict[Hashable, Any] = field(default_factory=dict)

    def find_or_make(self, module: nn.Module, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what was made of a network under a key, or make it; what was made of another network is forgotten."""
        weights = _hash_weights(module)
        if self.module is not module or self.weights != weights:
            self.module, self.weights, self.made = module, weights, {}
        if key not in self.made:
            self.made[key] = make()
        found: Made = self.made[key]
        return found


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def reuse_graphs() -> Iterator[None]:
    """Trace and translate each network once for all its files that are exported within this context."""
    before = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(before)


def find_or_trace(module: nn.Module, example: Tensor, *, batch: int | None = None) -> ExportedProgram:
    """Return the program of a network, kept from an earlier export or traced; nobody may change it.

    Args:
        module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
        example: One image, [1, channels, height, width]; only its shape is used.
        batch: Images in every call; `None` leaves it dynamic.

    Raises:
        CompressError: As `trace` does.
    """
    kept = _kept.get()
    if kept is None:
        return trace(module, example, batch=batch)
    key = ("program", batch, tuple(example.shape))
    return kept.find_or_make(module, key, lambda: trace(module, example, batch=batch))


def find_or_convert(module: nn.Module, options: Hashable, convert: Callable[[], ModelProto]) -> ModelProto:
    """Return the graph of a network: kept from an earlier export, or converted; either way the caller's own.

    Args:
        module: The network.
        options: What else decides the graph.
        convert: Translates the network.
    """
    kept = _kept.get()
    if kept is None:
        return convert()
    from onnx import ModelProto

    def make() -> bytes:
        content: bytes = convert().SerializeToString(deterministic=True)
        return content

    return ModelProto.FromString(kept.find_or_make(module, ("graph", options), make))


def _hash_weights(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers, with their names, shapes and types."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in list_tensors(module):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(force=True).tobytes())
    return digest.hexdigest()
