"""Checks of a single network on a few images, before anything is trained: its outputs, and what it does to its input.

`check_network` runs it a few times on one batch. `check_outputs` looks at what a teacher gave for a whole validation split. A
network that is refused here would train, or teach, without a word and with a wrong result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress import forward_pass
from compress.errors import CompressError
from compress.forward_pass import FORWARD_ERRORS, PROBED_IMAGES, describe_output, explain_failure
from compress.freezing import evaluating
from compress.models import Network
from compress.tasks import CLASSIFICATION, Logits, Task

SOFTMAX_INSIDE = "take the softmax or sigmoid out of it, or let it return their logarithm: losses and files take logits"

OTHER_TASK = {
    4: "the labels are masks, so it must give a map of logits for each class, [batch, classes, height, width]: use a segmenter "
    "(`compress list models`)",
    3: "the labels are boxes, so it must give the logits of each class and a box for each cell, [batch, cells, classes + 4]: "
    "use a detector (`compress list models`)",
    2: "the labels are one class an image, so it must give logits [batch, classes]: use a classifier, or data with masks "
    "or boxes",
}
"""What to do where a network is one of another task, by the number of axes that its logits must have."""
REMEDY = "match network and images to each other"
"""For a network that does not take the images."""


class Found(NamedTuple):
    """What `check_network` found in a network that can be used."""

    classes: int
    changes_input: bool
    """Whether it changes its images in place, and must be given copies."""
    note: str
    """What its user should know, or nothing."""


def check_network(who: str, network: Network, images: Tensor, *, trains: bool, task: Task = CLASSIFICATION) -> Found:
    """Run a network a few times and refuse it if it could not be trained, or could not teach.

    Weights, buffers, modes, torch's random state and the images stay as they are.

    Args:
        who: The network in messages.
        network: As it is before training.
        images: Of the training split, [N, C, H, W]; some of them are used.
        trains: Whether it will be trained.
        task: What it is for, which decides the shape of its logits.

    Raises:
        CompressError: It is TorchScript and would be trained; cannot take the images; gives no logits, or not the same kind in
            training; gives probabilities, or the same whatever the image and its weights; or its answers change where nothing
            has changed.
    """
    if trains and any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
        raise CompressError(
            f"{who}: is a TorchScript module, or holds one; it cannot be exported when it is trained: give the Python module "
            "that it was made of, with its state_dict() loaded"
        )
    images, names = images[:PROBED_IMAGES].detach().clone(), set(network.state_dict())
    with forward_pass.keep_random_state(), forward_pass.keep_buffers(network), evaluating(network):
        copy = images.clone()
        logits = run_forward(who, network, copy, task=task)
        changes_input = forward_pass.changes(copy, images)
        _refuse_probabilities(who, forward_pass.find_probabilities(network, images, logits))
        fault = forward_pass.find_changed_answers(network, images, logits) or forward_pass.find_mixed_images(
            network, images, logits
        )
        if fault:
            raise CompressError(f"{who}: {fault}")
        if trains:
            _refuse_constant(who, network, images, logits)
            if len(images) > 1:  # batch norm takes no single image; a stage is rehearsed with what the loader gives
                changes_input |= _check_in_training(who, network, images, logits)
    if changed := sorted(names ^ set(network.state_dict())):
        raise CompressError(
            f"{who}: its forward pass adds or removes parameters or buffers ({', '.join(changed[:3])}), which would not be "
            "trained, nor saved as they are; make them in __init__"
        )
    return Found(task.count_classes(logits.shape), changes_input, _note_log_probabilities(who, logits))


def check_outputs(who: str, logits: Logits) -> None:
    """Refuse the outputs of a teacher on the whole validation split that are no logits.

    Args:
        who: The teacher in messages.
        logits: What it gave, [N, K].

    Raises:
        CompressError: They are probabilities, or the same on every image.
    """
    values = torch.from_numpy(logits)
    if forward_pass.is_constant(values):
        raise CompressError(
            f"{who}: its outputs are the same on each of {len(values)} images, whatever they show; check its weights, and the "
            "mean and std of the data; if it is trained here, train it with a lower lr"
        )
    _refuse_probabilities(who, forward_pass.describe_probabilities(values) or forward_pass.find_shares(values))


def run_forward(who: str, network: Network, images: Tensor, *, task: Task = CLASSIFICATION) -> Tensor:
    """Return the logits [N, K, ...] of a pass over images [N, C, H, W]; the modes are the caller's.

    Raises:
        CompressError: The network cannot take the images, or what it gives is no logits.
    """
    try:
        output: object = network(images)
    except FORWARD_ERRORS as error:
        raise CompressError(
            f"{who}: cannot take images {list(images.shape)}: {explain_failure(who, network, error, remedy=REMEDY)}"
        ) from error
    dims = task.logit_dims
    if isinstance(output, Tensor) and (output.layout != torch.strided or output.is_meta):
        kind = (
            "numbers that are nowhere (torch's meta device)"
            if output.is_meta
            else f"a tensor of layout {str(output.layout).removeprefix('torch.')}"
        )
        raise CompressError(f"{who}: gives {kind}; it must give plain logits [batch, classes]")
    usual = isinstance(output, Tensor) and output.dim() == dims and len(output) == len(images) and output.numel() > 0
    if not isinstance(output, Tensor) or not usual or not output.is_floating_point():
        if isinstance(output, Tensor) and output.dim() != dims and output.dim() in OTHER_TASK:
            raise CompressError(f"{who}: gives {list(output.shape)}; {OTHER_TASK[dims]}")
        whole = isinstance(output, Tensor) and not output.is_floating_point()
        kind = f"{str(getattr(output, 'dtype', '')).removeprefix('torch.')} " if whole else ""
        raise CompressError(
            f"{who}: gives {kind}{describe_output(output)} for {len(images)} images; it must give logits [batch, classes]: "
            "wrap it in a module that does"
        )
    return output


def _note_log_probabilities(who: str, logits: Tensor) -> str:
    how = forward_pass.find_log_probabilities(logits)
    return how and (
        f"{who}: its outputs {how}; a softmax does not see the difference, but losses that compare logits themselves do: "
        "return the logits if you can"
    )


def _refuse_probabilities(who: str, how: str) -> None:
    if how:
        raise CompressError(f"{who}: its outputs {how}; {SOFTMAX_INSIDE}")


def _check_in_training(who: str, network: Network, images: Tensor, evaluated: Tensor) -> bool:
    """Refuse outputs of another kind in training than those that were evaluated [N, K]; return whether images change."""
    copy = images.clone()
    with _training(network):
        try:
            output: object = network(copy)
        except FORWARD_ERRORS as error:
            reason = explain_failure(who, network, error, remedy=REMEDY)
            raise CompressError(f"{who}: fails in training mode on images {list(images.shape)}: {reason}") from error
    if not isinstance(output, Tensor) or output.shape != evaluated.shape:
        raise CompressError(
            f"{who}: gives {describe_output(output)} while it trains and {describe_output(evaluated)} in evaluation; "
            f"{_advise_one_kind(who, network, output)}"
        )
    _refuse_probabilities(who, forward_pass.describe_probabilities(output))
    return forward_pass.changes(copy, images)


def _advise_one_kind(who: str, network: Network, output: object) -> str:
    if any(getattr(module, "aux_logits", False) is True for module in network.modules()):
        return f"leave its auxiliary classifiers out: build it with aux_logits=False, or set {who}.aux_logits = False"
    if isinstance(output, Tensor):
        return "let it give logits [batch, classes] in both modes"
    return f"say where the main logits are with {propose_logits(output)}, or let it give them alone in both modes"


def propose_logits(output: object) -> str:
    """Return the code of a `logits` that may fit what a network gives."""
    if isinstance(output, tuple | list):
        return f"logits=lambda output: output{'.logits' if hasattr(output, 'logits') else '[0]'}"
    names = list(output) if isinstance(output, Mapping) else []
    key = next((name for name in ("logits", "out", "output", "scores", *names) if name in names), "logits")
    return f"logits=lambda output: output[{key!r}]" if names else "logits=lambda output: output.logits"


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Hold a module in training mode for a while; each part gets its own mode back."""
    modes = {part: part.training for part in module.modules()}
    module.train()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _refuse_constant(who: str, network: Network, images: Tensor, logits: Tensor) -> None:
    """Refuse a network whose outputs [N, K] do not depend on the image, whatever its weights.

    A classifier that starts with zeros gives the same on every image, and learns.
    """
    if not forward_pass.differ(images) or not forward_pass.is_constant(logits):
        return
    parameters = list(network.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = [module.training for module in norms]
    try:
        for module in norms:
            module.train()  # statistics of the start say nothing of signals that are nearly lost
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * (0.1 * parameter.square().mean().sqrt() + 0.01))
        constant = forward_pass.is_constant(network(images.clone()))
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for module, mode in zip(norms, modes, strict=True):
            module.training = mode
    if constant:
        raise CompressError(
            f"{who}: its outputs are the same on each of {len(images)} images, also with other weights, so it cannot learn "
            "from them; look in its forward pass for where the image is lost"
        )
