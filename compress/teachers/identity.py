"""Hash a module by all that decides its outputs: weights, structure, plain attributes and source."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.system.files import hash_file


def hash_module(module: nn.Module) -> str:
    """Return the sha256 over weights, structure, plain attributes and source of a module: equal only where its outputs are."""
    total = hashlib.sha256(repr(module).encode())
    for name, part in module.named_modules():
        own = {key: value for key, value in vars(part).items() if key not in _EVERY_MODULE}
        total.update(f"{name} {identify_class(type(part))} {_describe_value(own)}".encode())
    tensors = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for name, value in tensors:
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(_view_bytes(value))
    return total.hexdigest()


_EVERY_MODULE = frozenset(vars(nn.Module()))


def _describe_value(value: object) -> str:
    """Return a text that tells numbers, texts, tensors and collections of them apart, and other things by their type."""
    if isinstance(value, Mapping):
        return str(sorted(f"{key}: {_describe_value(each)}" for key, each in value.items()))
    if isinstance(value, tuple | list | set | frozenset):
        each = [_describe_value(each) for each in value]
        return str(each if isinstance(value, tuple | list) else sorted(each))
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(_view_bytes(value)).hexdigest()}"
    known = isinstance(value, bool | int | float | str | bytes | None)
    return repr(value) if known else f"{type(value).__module__}.{type(value).__qualname__}"


def _view_bytes(value: Tensor) -> memoryview | bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data if value.numel() else b""


def identify_class(kind: type) -> str:
    """Return the name of a class and, outside torch, whose version is part of every key, the sha256 of its source."""
    return _identify_class(cast("Any", kind))


@cache
def _identify_class(kind: Any) -> str:
    if kind.__module__.startswith("torch."):
        return f"{kind.__module__}.{kind.__qualname__}"
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:  # made in a notebook or at a prompt: its name, structure and weights must do
        path = None
    return f"{kind.__module__}.{kind.__qualname__} {hash_file(Path(path)) if path and Path(path).is_file() else ''}"
