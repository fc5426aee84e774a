"""Upper bound of the speed of a training step on this machine, and the memory traffic of an eager one.

The arithmetic of a step, counted from shapes, over the speed of a large matrix product is a time below which no step in float32
gets. (A fast convolution algorithm such as Winograd's does less arithmetic; the bound is of direct convolution.) The bytes that
a step moves when every operator reads its operands from memory and writes its results there, over the speed of a large copy,
are an estimate and no bound: caches hold some of them, and fused operators move fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies.training_speed.rounds import Steps, Subject

SIDE = 2048
"""Of the square matrices: 16 MiB each, so that packing costs nothing against the product."""
COPIED_BYTES = 256 << 20
"""Copied at once: many times what caches hold."""


class Cost(NamedTuple):
    """Of one training step."""

    step_flop: int
    """Forward and backward of the student."""
    teacher_flop: int
    """Forward of the teacher."""
    step_bytes: int
    """Read and written by the operators of the student's forward, backward and update, one by one."""


def count_cost(student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor) -> Cost:
    """Return the cost of one step on a batch, images [B, C, H, W] and labels [B]; the student is changed by it."""
    with torch.no_grad(), _make_counter() as counter:
        teacher.eval()(images)
    teacher_flop = counter.get_total_flops()
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):  # momentum exists from the second update on
        optimizer.zero_grad(set_to_none=True)
        with _make_counter() as counter, _Traffic() as traffic:
            F.cross_entropy(student(images), labels).backward()
            optimizer.step()
    return Cost(counter.get_total_flops(), teacher_flop, traffic.bytes)


def make_probes(device: torch.device) -> list[Subject]:
    """Return what measures the machine: `sgemm` in FLOP/s, `copy` in bytes read and written per second."""
    left, right = torch.rand(2, SIDE, SIDE, device=device)
    product = torch.empty_like(left)
    source = torch.rand(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return [
        Subject("sgemm", _repeat(lambda: torch.mm(left, right, out=product)), work=2.0 * SIDE**3),
        Subject("copy", _repeat(lambda: target.copy_(source)), work=2.0 * COPIED_BYTES),
    ]


def _repeat(work: Callable[[], object]) -> Callable[[], Steps]:
    def steps() -> Steps:
        while True:
            work()
            yield

    return steps


def _make_counter() -> FlopCounterMode:
    """Return torch's counter, whose formula for the weights' gradient of grouped convolutions is too large, with ours."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_shape: Sequence[int],
    images_shape: Sequence[int],
    weight_shape: Sequence[int],
    *rest: Any,
    out_shape: object,
) -> int:
    """Return 2 × multiplications: each of the two gradients that is wanted takes as many as the forward pass.

    Args:
        grad_shape: [B, O, h, w].
        images_shape: [B, C, H, W].
        weight_shape: [O, C / groups, k, k].
        rest: bias sizes, stride, padding, dilation, transposed, output padding, groups, and which gradients are wanted.
        out_shape: Of the gradients.
    """
    del images_shape, out_shape
    wanted = rest[-1]
    return 2 * prod(grad_shape) * prod(weight_shape[1:]) * (int(wanted[0]) + int(wanted[1]))


class _Traffic(TorchDispatchMode):
    """Counts the bytes of the operands and results of every operator that computes; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(
                leaf.numel() * leaf.element_size() for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)
            )
        return result
