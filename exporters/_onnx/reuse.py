"""Reuse of the ONNX graph of a network, from which most formats start, for several files of the same network.

Translating a network into ONNX takes most of the time of its export, and gives the same graph for every precision and for every
format that is made of ONNX. Within `reuse_graphs()` it is made once for each opset and batch. The graphs of one network are
kept, the last that was exported; its weights are compared, but not its code, so nobody may change the code in the meantime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporters._torch.trace import list_tensors

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn


@dataclass
class _Kept:
    """The serialised graphs of one network."""

    module: nn.Module | None = None
    weights: str = ""
    graphs: dict[Hashable, bytes] = field(default_factory=dict)


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def reuse_graphs() -> Iterator[None]:
    """Translate each network once for all its files that are exported within this context."""
    before = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(before)


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
    if kept.module is module and options in kept.graphs and kept.weights == _hash_weights(module):
        from onnx import ModelProto

        return ModelProto.FromString(kept.graphs[options])
    model = convert()
    weights = _hash_weights(module)
    if kept.module is not module or kept.weights != weights:
        kept.module, kept.weights, kept.graphs = module, weights, {}
    kept.graphs[options] = model.SerializeToString(deterministic=True)
    return model


def _hash_weights(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers, with their names, shapes and types."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in list_tensors(module):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy(force=True).tobytes())
    return digest.hexdigest()
