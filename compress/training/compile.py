"""Compile a network that is being trained by torch's inductor, on a GPU with CUDA graphs too.

The network itself stays as it is: a copy of its structure around its very tensors is compiled, with hooks at its taps that
stay, since the compiler sees no others. Each size of batch is compiled anew; validation runs eager torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.methods import Forward, LazyFeatures
from compress.models import Network, Outputs


def require_engine(engine: str, device: torch.device, *, field: str = "train.engine") -> None:
    """Refuse an engine that a device does not have.

    Args:
        engine: As the recipe has it.
        device: Where the network is trained.
        field: Where the recipe has it, for the message.

    Raises:
        CompressError: It does not have it.
    """
    if engine == "cuda_graphs" and device.type != "cuda":
        raise CompressError(f"{field}: 'cuda_graphs' runs on a CUDA device alone; use compile, auto or eager")


def compile_network(engine: str, network: Network, taps: Sequence[int], device: torch.device) -> Forward:
    """Return a network as an engine runs it; the first forward and backward pass take a minute or more, for they compile.

    Args:
        engine: `compile` or `cuda_graphs`.
        network: The network, whose tensors are trained.
        taps: Places of the taps whose maps are read; the others are not computed apart.
        device: Where it runs.

    Raises:
        CompressError: This device does not have the engine, or the network carries hooks, which a copy cannot have.
    """
    require_engine(engine, device)
    hooked = next((name for name, module in network.named_modules() if _has_hooks(module)), None)
    if hooked is not None:
        raise CompressError(f"train.engine: the network has hooks at {hooked or 'its root'!r}, and runs eager alone; use eager")
    try:
        return _Compiled(network, taps, graphs=engine == "cuda_graphs")
    except (RuntimeError, TypeError) as error:  # of copy.deepcopy: locks, files, tensors with a history
        raise CompressError(f"train.engine: the network cannot be copied ({error}), and runs eager alone; use eager") from error


def _has_hooks(module: nn.Module) -> bool:
    kinds = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(kinds)


class _Compiled:
    """A network, compiled."""

    def __init__(self, network: Network, taps: Sequence[int], *, graphs: bool) -> None:
        self._network, self._taps, self._graphs = network, tuple(taps), graphs
        self._copy, self._same = _Tapped(network, self._taps), False
        self._run = torch.compile(
            self._copy, fullgraph=True, dynamic=False,
            options={"triton.cudagraphs": graphs, "fallback_random": True},  # the random numbers of dropout are eager torch's
        )  # fmt: skip

    def __call__(self, images: Tensor) -> Outputs:
        for own, ours in zip(self._network.modules(), self._copy.network.modules(), strict=True):
            ours.training = own.training
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may be overwritten
        with explain_compile_errors():
            logits, *maps = self._run(images)
        self._refuse_apart()
        found: dict[int, Tensor] = dict(zip(self._taps, maps, strict=True))

        def read(place: int) -> Tensor:
            if place not in found:
                raise CompressError(f"train.engine: tap {place} was not read in the dry step; use eager")
            return found[place]

        return Outputs(logits, LazyFeatures(len(self._network.taps), read))

    def _refuse_apart(self) -> None:
        """Refuse a network that changes more in a pass than numbers in its tensors: the copy has that, the network has not."""
        if self._same:
            return
        for own, ours in zip(self._network.modules(), self._copy.network.modules(), strict=True):
            if name := _find_difference(own, ours):
                raise CompressError(
                    f"train.engine: {type(own).__name__} gives its attribute {name!r} another value in a pass, and so runs "
                    "eager alone; use eager"
                )
        self._same = True


def _find_difference(own: nn.Module, ours: nn.Module) -> str:
    """Return the name of an attribute in which two modules differ, or nothing."""
    buffers = dict(ours.named_buffers(recurse=False))
    if lost := next((name for name, buffer in own.named_buffers(recurse=False) if buffers.get(name) is not buffer), ""):
        return lost
    for name, value in vars(own).items():
        other = vars(ours).get(name)
        plain = isinstance(value, bool | int | float | str | None)
        if (plain and value != other) or (isinstance(value, Tensor) and not torch.equal(value, cast("Tensor", other))):
            return name
    return ""


class _Tapped(nn.Module):
    """A copy of a network's structure around the same tensors, which gives its logits and the maps of some taps."""

    def __init__(self, network: Network, taps: Sequence[int]) -> None:
        super().__init__()
        same = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
        self.network = copy.deepcopy(network, cast("dict[int, object]", same))
        self._taps, self._seen = taps, dict[int, Tensor]()
        for place in taps:
            self.network.module.get_submodule(network.taps[place]).register_forward_hook(partial(self._keep, place))

    def _keep(self, place: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._seen[place] = output

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [B, K] and the maps [B, c, h, w] of the taps, given images [B, C, H, W]."""
        logits: Tensor = self.network(images)
        return (logits, *(self._seen.pop(place) for place in self._taps))


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Say in one line what torch cannot compile, or that there is no compiler.

    Raises:
        CompressError: In place of the compiler's own error.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    except (TorchDynamoException, FailOnRecompileLimitHit, CppCompileError, InvalidCxxCompiler) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise CompressError(f"train.engine: torch cannot compile the network ({reason}); use eager") from error
