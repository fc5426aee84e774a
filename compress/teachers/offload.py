"""Move weights that are not read for a while from memory to files.

A teacher whose outputs are all stored is not run again, and would hold its memory for the rest of the training. Its tensors are
given a mapping of a file with their bytes: they keep their values, whoever reads them reads the file, and what
nobody reads takes no memory. To drop and reload the weights instead, one would have to know the file of every tensor (a user's
checkpoint, a stage of the cache, a head that a stage before has trained), and glibc would keep the freed blocks all the same.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, UntypedStorage, nn

from compress.errors import Unreachable
from compress.system.files import writable

LARGE = 1 << 16
"""Bytes; what is smaller stays in memory, for every file takes some, too."""


def offload_weights(modules: Iterable[nn.Module], folder: Path) -> None:
    """Move the large frozen tensors of some modules to files, which have no names and are deleted with the tensors.

    On systems where a file cannot lose its name while it is open nothing happens.

    Args:
        modules: Their parameters that need a gradient, and what lies on a GPU, stay as they are.
        folder: Where the files are made.

    Raises:
        Unreachable: The disk is full, the folder cannot be written, or its files cannot be mapped.
    """
    if os.name != "posix":
        return
    everything = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    tensors = {id(tensor): tensor for tensor in everything if _can_offload(tensor)}.values()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    with writable(folder):
        mapped = {address: _map_to_file(storage, folder) for address, storage in storages.items()}
    for tensor in tensors:
        place = mapped[tensor.untyped_storage().data_ptr()]
        moved = torch.empty(0, dtype=tensor.dtype).set_(place, tensor.storage_offset(), tensor.size(), tensor.stride())
        tensor.data = moved
    storages.clear()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc would keep what was freed
        trim(0)


def _can_offload(tensor: Tensor) -> bool:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.requires_grad:
        return False
    return tensor.untyped_storage().nbytes() >= LARGE


def _map_to_file(storage: UntypedStorage, folder: Path) -> UntypedStorage:
    """Return the same bytes, mapped from a file; who writes to them writes to memory of its own."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data)
        file.flush()
        try:
            found = UntypedStorage.from_file(f"/dev/fd/{file.fileno()}", shared=False, nbytes=storage.nbytes())
        except RuntimeError as error:
            raise Unreachable(f"{folder}: a file there cannot be mapped ({error})") from error
        return cast("UntypedStorage", found)
