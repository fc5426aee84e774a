"""Trace the user's module: the first step of every exporter.

The module itself is never changed: a deep copy is traced, in evaluation mode, float32, on the CPU, in contiguous
format (a channels-last network would be traced with its strides, and its pooling would decompose into dozens of shape
operators). It is traced on zeros, so that no image of the user ends up in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from compress.errors import CompressError
from compress.system import quiet
from exporters._torch.branches import merge_branches, refuse_other_answers

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
    images = torch.zeros(batch or _DYNAMIC_TRACE_BATCH, *example.shape[1:])
    network = split_outputs(copy_network(module, images.shape))
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


def copy_network(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Return a copy of a module to be traced: it gives logits, the same in every call, and leaves its input as it is.

    Branches that were only for training are merged (`exporters._torch.branches`).

    Args:
        module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
        shape: Of the images that it is tried on, [batch, channels, height, width].

    Raises:
        CompressError: The module cannot be copied or does not run, has weights that are not finite, gives probabilities, or
            answers otherwise from call to call.
    """
    import torch

    from compress import forward_pass

    name = type(module).__name__
    network = _copy(_unwrap(module, name), name)
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with forward_pass.keep_random_state():
        logits = _run(network, images, name)
        if merge_branches(network):
            refuse_other_answers(logits, _run(network, images, name), name)
        with torch.no_grad():
            probabilities = forward_pass.find_probabilities(network, images, logits)
            changed = forward_pass.find_changed_answers(network, images, logits)
    if probabilities:
        raise CompressError(
            f"export of {name}: its outputs {probabilities}; take the softmax or sigmoid out of the network: a file gives "
            "logits, and postprocess: inside adds class and score"
        )
    if changed:
        raise CompressError(f"export of {name}: {changed}")
    return network


def _unwrap(module: nn.Module, name: str) -> nn.Module:
    """Return the Python module inside wrappers of torch that run it elsewhere or otherwise."""
    import torch

    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = f"its part {path!r} is" if path else "it is"
            raise CompressError(
                f"export of {name}: {what} a TorchScript module ({part.original_name}), whose code cannot be traced; give the "
                "Python module that it was made of, with its state_dict() loaded"
            )
    while isinstance(module, torch._dynamo.OptimizedModule | torch.nn.DataParallel):
        module = module._orig_mod if isinstance(module, torch._dynamo.OptimizedModule) else module.module
    return module


def _copy(module: nn.Module, name: str) -> nn.Module:
    import torch

    from compress.copying import copy_module

    try:
        network = copy_module(module)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CompressError(
            f"export of {name}: the module cannot be copied ({reason}); keep plain parameters and buffers"
        ) from error
    _write_norms(network)
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


def _write_norms(network: nn.Module) -> None:
    """Put the weights that old weight and spectral norm compute in each pass in the place of their parts."""
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for module in network.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, SpectralNorm | WeightNorm):
                hook.remove(module)
                del module._forward_pre_hooks[key]


def _run(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """Return the logits [batch, classes, ...] of a plain forward pass, whose errors are clearer than those of a traced one.

    A network that changes its images in place gets a copy of them from then on, in its file too.
    """
    import torch

    from compress.forward_pass import changes

    shape, given = list(images.shape), images.clone()
    try:
        with torch.no_grad():
            logits: object = network(given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CompressError(f"export of {name}: the network fails on images {shape}: {reason}; check the image size") from error
    if not isinstance(logits, torch.Tensor):
        raise CompressError(f"export of {name}: forward returns a {type(logits).__name__}; wrap it to return the logits only")
    if logits.ndim not in ((2, 4) if find_split(network) is None else (3,)) or logits.shape[0] != len(images):
        raise CompressError(
            f"export of {name}: images {shape} give logits {list(logits.shape)}, not [{len(images)}, classes] or "
            f"[{len(images)}, classes, height, width]"
        )
    if changes(given, images):
        network.register_forward_pre_hook(_copy_images)
    return logits


def find_split(network: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """Return the method by which a detector gives logits [B, A, K] and boxes [B, A, 4] of images apart; `None` of others."""
    inner = network.module if isinstance(getattr(network, "module", None), _load_module_type()) else network
    split: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(inner, "split_answers", None)
    return split


def _load_module_type() -> type[nn.Module]:
    from torch import nn

    return nn.Module


def split_outputs(network: nn.Module) -> nn.Module:
    """Let a detector, which is the caller's own copy, give logits and boxes as two outputs; others stay as they are."""
    split = find_split(network)
    if split is not None:
        network.forward = split
    return network


def _copy_images(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for tensor in inputs)


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
