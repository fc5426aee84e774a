"""Findings about a network from a few forward passes: what its outputs are, whether they repeat, whether it changes its input.

Each function returns what is wrong in words, or an empty text. Whose network it is, and what follows from it, its caller says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.text import shorten

FORWARD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a forward pass of foreign code raises where it does not fit its input."""

MOST_SAMPLES = 10_000
"""Pixels of dense logits that are looked at, about."""

PROBED_IMAGES = 4
"""Images of a few passes: enough to differ from one another, and quick."""

_REPEATED = {"cpu": 1e-4}
"""Largest difference between two passes over the size of the logits. 1e-4 is what the gate allows a file in fp32."""
_REPEATED_ELSEWHERE = 1e-2
"""The same where a library may choose another algorithm, in TF32, for the second pass."""
_BESIDE = 5e-2
"""The same between passes of different numbers of images, for which other algorithms are chosen everywhere, in bf16 too."""

_SQUASHING = {
    "Sigmoid": "a sigmoid", "Hardsigmoid": "a hard sigmoid", "LogSigmoid": "a log-sigmoid", "Softmax": "a softmax",
}  # fmt: skip
"""Last operations after which no logits are left, by their name in the graph of gradients."""
_RESHAPING = ("View", "UnsafeView", "Reshape", "Alias", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Permute", "Transpose", "T")
"""Operations that leave the values as they are."""


def find_probabilities(run: Callable[[Tensor], Tensor], images: Tensor, logits: Tensor) -> str:
    """Return how the outputs of a network are seen to be probabilities and no logits, or nothing.

    Args:
        run: Runs the network: images [N, C, H, W] to logits [N, K].
        images: A few images.
        logits: What it gave for them, [N, K].
    """
    last = _name_last_operation(run, images[:2])
    return f"come out of {_SQUASHING[last]}" if last in _SQUASHING else describe_probabilities(logits)


def describe_probabilities(logits: Tensor) -> str:
    """Return how outputs [N, K, ...] themselves are seen to be probabilities, or nothing."""
    values = _list_samples(logits.detach()).double().cpu()
    if len(values) == 0 or values.shape[1] < 2 or not torch.isfinite(values).all() or float(values.min()) < 0:
        return ""
    tolerance = 1e-4 if logits.dtype in (torch.float32, torch.float64) else 1e-2
    for whole in (1.0, 100.0):
        if _sum_to(values / whole, tolerance, dim=1):
            return f"are probabilities: none is below 0, and those of each image sum to {whole:g}"
    if len(values) > 2 and _sum_to(values, tolerance, dim=0):
        return "are a softmax over the images of the batch (dim=0): those of each class sum to 1"
    return ""


def _list_samples(logits: Tensor) -> Tensor:
    """Return logits [N, K] as they are, and of dense ones [N, K, h, w] a share of the pixels as samples, [n, K]."""
    if logits.dim() == 2:
        return logits
    samples = logits.movedim(1, -1).flatten(0, -2)
    return samples[:: max(1, len(samples) // MOST_SAMPLES)]


def _sum_to(values: Tensor, tolerance: float, *, dim: int) -> bool:
    """Return whether values [N, K] sum to 1 along a dimension, all far more alike than the values themselves."""
    sums = values.sum(dim=dim)
    spread = float(values.std(dim=1 - dim).mean()) if values.shape[1 - dim] > 1 else 0.0
    alike = float(sums.max() - sums.min()) <= 0.1 * spread + 1e-6 + tolerance * (tolerance > 1e-3)
    return alike and float((sums - 1).abs().max()) <= tolerance


def find_shares(logits: Tensor) -> str:
    """Return that all outputs [N, K] of a network that has been trained lie between 0 and 1, or nothing.

    Logits of a trained network do not: between 0 and 1 no class is ever sure. Those of an untrained one may.
    """
    values = logits.detach()
    inside = values.numel() >= 200 and float(values.min()) >= 0 and float(values.max()) <= 1
    return "lie between 0 and 1 on every image, as after a sigmoid" if inside and float(values.max()) > 0.5 else ""


def find_log_probabilities(logits: Tensor) -> str:
    """Return how outputs [N, K] are seen to be logarithms of probabilities, or nothing.

    Their softmax is that of the logits, so they do no harm where nothing but a softmax reads them.
    """
    values = _list_samples(logits.detach()).double().cpu()
    if len(values) == 0 or values.shape[1] < 2 or not torch.isfinite(values).all() or float(values.max()) > 1e-6:
        return ""
    tolerance = 1e-4 if logits.dtype in (torch.float32, torch.float64) else 1e-2
    found = float(values.logsumexp(dim=1).abs().max()) <= tolerance
    return "are log-probabilities: their exponentials sum to 1 on each image" if found else ""


def is_constant(logits: Tensor) -> bool:
    """Return whether logits [N, K] are the same on every image."""
    values = logits.detach() if logits.dim() > 2 else logits.detach().double()  # maps may be many
    if len(values) < 2 or not torch.isfinite(values).all():
        return False
    return float((values.amax(dim=0) - values.amin(dim=0)).max()) <= 1e-6 * float(values.abs().max())


def differ(images: Tensor) -> bool:
    """Return whether not all of the images [N, C, H, W] are the same."""
    return len(images) > 1 and bool((images[1:] != images[:1]).any())


def _name_last_operation(run: Callable[[Tensor], Tensor], images: Tensor) -> str:
    """Return the operation that computes the outputs, those left out that only change a shape; nothing where it is unknown."""
    with torch.enable_grad(), warnings.catch_warnings(action="ignore"):  # of code that expects no gradients here
        traced = images.clone().requires_grad_().clone()  # no leaf, so that it may be changed in place
        try:
            node = run(traced).grad_fn
        except FORWARD_ERRORS:  # works without gradients alone, as NumPy inside does
            return ""
    while node is not None:
        name = node.name().rpartition("Backward")[0]
        if name not in _RESHAPING or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


def find_changed_answers(run: Callable[[Tensor], Tensor], images: Tensor, first: Tensor) -> str:
    """Return in what the answers of a network change without need, or nothing.

    Args:
        run: Runs the network in evaluation mode: images [N, C, H, W] to logits [N, K].
        images: A few images; each pass gets a copy.
        first: What a pass over them gave, [N, K].
    """
    second = run(images.clone())
    if second.shape != first.shape:
        return f"gives {list(first.shape)} in one evaluation pass and {list(second.shape)} in the next"
    size = _measure_size(first)
    allowed = _REPEATED.get(images.device.type, _REPEATED_ELSEWHERE)
    if (difference := _measure_difference(first, second)) > allowed * size:
        return (
            f"its answers differ between two evaluation passes over the same images, by up to {difference:.3g} where logits "
            f"are of the size {size:.3g}; {_find_source(run, images)}"
        )
    return ""


def find_mixed_images(run: Callable[[Tensor], Tensor], images: Tensor, first: Tensor) -> str:
    """Return that the answer to one image depends on others, or nothing; arguments as for `find_changed_answers`."""
    if not differ(images):
        return ""
    some = len(images) // 2
    fewer = run(images[:some].clone())
    if fewer.shape == first[:some].shape and _measure_difference(first[:some], fewer) > _BESIDE * _measure_size(first):
        return (
            "its answer to an image depends on the images beside it in the batch, as with batch norm without running "
            "statistics or a softmax over dim=0; let each image be answered for itself"
        )
    return ""


def _measure_size(logits: Tensor) -> float:
    return max(float(logits.double().square().mean().sqrt()), 1e-30)


def _measure_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference; 0 where something is not finite, which is another fault."""
    difference = float((one.double() - other.double()).abs().max())
    return difference if difference < float("inf") else 0.0


def _find_source(run: Callable[[Tensor], Tensor], images: Tensor) -> str:
    """Return what lets answers differ, and what to do about it."""
    with _RandomOperations() as random:
        run(images.clone())
    if random.names:
        listed = ", ".join(sorted(random.names))
        return (
            f"it draws random numbers ({listed}), as F.dropout does without training=self.training; let it draw none in "
            "evaluation mode"
        )
    return "it keeps something from one pass to the next, or draws random numbers outside torch; let it do neither"


class _RandomOperations(TorchDispatchMode):
    """Collects the names of operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, operation: Any, _types: Any, arguments: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in operation.tags:
            self.names.add(str(operation).split(".")[1])
        return operation(*arguments, **(options or {}))


def changes(images: Tensor, before: Tensor) -> bool:
    """Return whether a pass changed its input: images [N, C, H, W], which were a fresh copy of `before`."""
    return images._version > 0 or images.shape != before.shape or not bool(_are_equal(images, before).all())


def _are_equal(images: Tensor, before: Tensor) -> Tensor:
    """Return where two batches [N, C, H, W] are the same, NaN as NaN."""
    return (images == before) | (images.isnan() & before.isnan())


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Leave torch's generators as they are, whatever is drawn inside."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def keep_buffers(module: nn.Module) -> Iterator[None]:
    """Leave the buffers of a module as they are, whatever passes change inside."""
    buffers = dict(module.named_buffers())
    before = {name: value.detach().clone() for name, value in buffers.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in buffers.items():
                value.copy_(before[name])


def describe_output(output: object) -> str:
    """Return what a forward pass gave, in words: a shape, or a type with its parts."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(str(key) for key in list(output)[:4])}"
    if isinstance(output, tuple | list):
        fields = getattr(output, "_fields", None)
        parts = fields or [describe_output(part) for part in output[:4]]
        return f"a {type(output).__name__} of {', '.join(parts)}"
    return f"a {type(output).__name__}"


def read_reason(error: BaseException) -> str:
    """Return the first line of an error, with its type where the text alone says little."""
    first = shorten((str(error).strip().splitlines() or [""])[0])
    return first if isinstance(error, RuntimeError | ValueError) and first else f"{type(error).__name__}: {first}".rstrip(": ")


def explain_failure(who: str, network: nn.Module, error: BaseException, *, remedy: str) -> str:
    """Return why a network failed on images, and what to do.

    Args:
        who: The network in messages; its first word is a name in the user's code.
        network: Failed on images in float32.
        error: Its own.
        remedy: What to do unless the network is in another precision.
    """
    others = {str(each.dtype).removeprefix("torch.") for each in network.parameters() if each.dtype != torch.float32}
    if not others:
        return f"{read_reason(error)}; {remedy}"
    return (
        f"its weights are {' and '.join(sorted(others))}, and images are float32 ({read_reason(error)}); cast it: "
        f"{who.partition(' ')[0]}.float()"
    )
