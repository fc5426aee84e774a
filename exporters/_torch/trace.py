"""Trace the user's module: the first step of every exporter.

The module itself is never changed: a deep copy is traced, in evaluation mode, float32, on the CPU, in contiguous
format (a channels-last network would be traced with its strides, and its pooling would decompose into dozens of shape
operators). It is traced on zeros, so that no image of the user ends up in a file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from compress.errors import CompressError
from compress.system import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_DYNAMIC_TRACE_BATCH = 2
"""torch.export specialises on sizes 0 and 1, so a batch that shall stay dynamic is traced with two images."""


def trace(module: nn.Module, example: Tensor, *, batch: int | None = None) -> ExportedProgram:
    """Trace one forward pass; the program holds no paths or names of the user's source.

    Args:
        module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
        example: One image, [1, channels, height, width]; only its shape is used.
        batch: Images in every call; `None` leaves it dynamic.

    Raises:
        CompressError: The module does not run, has weights that are not finite, or has a forward pass that cannot be traced.
    """
    import torch

    name = type(module).__name__
    if example.ndim != 4 or example.shape[0] != 1:
        raise CompressError(
            f"export of {name}: the example has shape {list(example.shape)}; give one image [1, channels, height, width]"
        )
    network = _copy(module)
    images = torch.zeros(batch or _DYNAMIC_TRACE_BATCH, *example.shape[1:])
    _run(network, images, name)
    dynamic = None if batch is not None else ({0: torch.export.Dim("batch")},)
    try:
        with quiet.silence_tracer():
            program = torch.export.export(network, (images,), dynamic_shapes=dynamic, strict=False)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CompressError(f"export of {name}: its forward pass cannot be traced: {_explain_failure(error)}") from error
    _forget_source(program)
    return program


def list_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers, each of its own shape [...], with their names."""
    yield from chain(module.named_parameters(), module.named_buffers())


def _copy(module: nn.Module) -> nn.Module:
    import torch

    name = type(module).__name__
    try:
        network = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CompressError(
            f"export of {name}: the module cannot be copied ({reason}); keep plain parameters and buffers"
        ) from error
    network.eval().requires_grad_(requires_grad=False)
    network.to("cpu", torch.float32)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in torch's overloads
    for weight, tensor in list_tensors(network):
        surplus = int((~torch.isfinite(tensor)).sum())
        if surplus:
            raise CompressError(
                f"export of {name}: {surplus} of {tensor.numel()} values of {weight!r} are not finite; "
                "the training diverged: export an earlier checkpoint"
            )
    return network


def _run(network: nn.Module, images: Tensor, name: str) -> None:
    """Run one plain forward pass, whose errors are clearer than those of a traced one."""
    import torch

    shape = list(images.shape)
    try:
        with torch.no_grad():
            logits = network(images)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CompressError(f"export of {name}: the network fails on images {shape}: {reason}; check the image size") from error
    if not isinstance(logits, torch.Tensor):
        raise CompressError(f"export of {name}: forward returns a {type(logits).__name__}; wrap it to return the logits only")
    if logits.ndim != 2 or logits.shape[0] != len(images):
        raise CompressError(f"export of {name}: images {shape} give logits {list(logits.shape)}, not [{len(images)}, classes]")


def _explain_failure(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "Constraints violated" in lines[0]:
        return "its code fixes the batch size; use -1 or images.shape[0] where it reshapes, or export with a fixed batch"
    if "data-dependent" in lines[0]:
        return "a branch depends on the values of the image; write it with torch.where"
    return f"{lines[0].rstrip('.')}; use tensor operations only"


def _forget_source(program: ExportedProgram) -> None:
    """Drop stack traces (absolute paths), names of modules and names of classes."""
    import torch

    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                    node.meta.pop(key, None)
