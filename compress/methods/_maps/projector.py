"""Prediction path from a student to its teachers' classifiers, with a projector between.

What is shipped is the student up to its last tap and, for each teacher, a branch: a pool of fixed kernel, a projector, global
average pooling, and that teacher's classifier. The student's own classifier is neither trained nor shipped.

Source: SimKD, DefangChen/SimKD 2b389c3.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.methods._maps.align import Size, find_common_size
from compress.methods._method import Setting
from compress.methods._step import Step
from compress.models import Network, Outputs

FinalRelu = Literal["auto", "on", "off"]

PROBES = 3
"""Images of noise beside the setting's own, on which a teacher's last map and its logits are looked at."""


class Branch(nn.Module):
    """From the student's last map [B, c_s, h, w] to the logits of one teacher's classifier, [B, K]."""

    def __init__(self, pool: nn.Module, projector: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.pool, self.projector, self.classifier = pool, projector, classifier

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] for the student's last map, [B, c_s, h, w]."""
        projected = self.projector(self.pool(features))  # [B, c_t, h, w]
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(projected, 1).flatten(1))
        return logits


class Projected(nn.Module):
    """The shipped network: images [B, C, H, W] to logits [B, K], the mean over the branches."""

    def __init__(self, backbone: Network, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.backbone, self.branches = backbone, nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, K] for images [B, C, H, W]."""
        return average_logits(self.each(images))

    def each(self, images: Tensor) -> list[Tensor]:
        """Return the logits of every branch, [B, K] each."""
        features = self.backbone.outputs(images).features[-1]
        return [branch(features) for branch in self.branches]

    def each_branch(self) -> list[Branch]:
        """Return the branches, one for each teacher."""
        return [branch for branch in self.branches if isinstance(branch, Branch)]


class Paths(NamedTuple):
    """The shipped path, and what brings each teacher's last map to the size at which the two meet."""

    shipped: Projected
    teacher_pools: nn.ModuleList


def build_paths(setting: Setting, classifiers: Sequence[nn.Linear], *, where: str, factor: int, final_relu: FinalRelu) -> Paths:
    """Return the prediction path from the student to each teacher's classifier.

    Args:
        setting: Student, teachers, an image, the number of classes.
        classifiers: For each teacher, the linear layer that the path ends in.
        where: Name of the method, for messages.
        factor: The projector is this many times narrower inside than the teacher's map.
        final_relu: Whether the projector ends in a ReLU; `auto` where the teacher's map is never negative.

    Raises:
        CompressError: A network has no tap or no map there, sizes have no whole ratio, or a teacher is not its classifier
            behind global average pooling.
    """
    _refuse_no_taps(setting, where)
    backbone = remove_head(setting.student, setting.image, where=where)
    with evaluating(backbone):
        features = backbone.outputs(setting.image).features[-1]
    branches, pools = [], nn.ModuleList()
    for index, (teacher, classifier) in enumerate(zip(setting.teachers, classifiers, strict=True)):
        outputs = _run_teacher(teacher, setting.image)
        goal = outputs.features[-1]  # [B, c_t, h, w]
        size = find_common_size(features, goal, where=f"method.{where}")
        _refuse_other_head(teacher, outputs, where=f"method.{where}: teacher {index}")
        relu = bool((goal >= 0).all()) if final_relu == "auto" else final_relu == "on"
        inside = _narrow(goal.shape[1], factor, where)
        branch = Branch(
            build_pool(features, size, where=f"method.{where}: the student's last map"),
            build_projector(features.shape[1], inside, goal.shape[1], final_relu=relu),
            classifier,
        )
        branches.append(branch.to(features.device))
        pools.append(build_pool(goal, size, where=f"method.{where}: the last map of teacher {index}"))
    return Paths(Projected(backbone, branches), pools)


def build_projector(inputs: int, inside: int, outputs: int, *, final_relu: bool) -> nn.Sequential:
    """Return the projector, [B, inputs, h, w] -> [B, outputs, h, w].

    Args:
        inputs: Channels of the student's map.
        inside: Channels of the two middle maps.
        outputs: Channels of the teacher's map.
        final_relu: End in a ReLU.
    """
    layers = [
        nn.Conv2d(inputs, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
        nn.Conv2d(inside, inside, 3, padding=1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
        nn.Conv2d(inside, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
    ]  # fmt: skip
    return nn.Sequential(*layers, *([nn.ReLU()] if final_relu else []))


def build_pool(features: Tensor, size: Size, *, where: str) -> nn.Module:
    """Return the average pool of fixed kernel that brings maps like these, [B, c, h, w], to a size.

    Raises:
        CompressError: The kernel would not be a whole number of pixels.
    """
    height, width = features.shape[2:]
    if height % size[0] or width % size[1]:
        raise CompressError(
            f"{where} is {height}×{width}, which does not pool to {size[0]}×{size[1]} with a kernel of whole pixels; "
            "tap another layer, or choose networks or a data.image_size whose last maps have a whole ratio"
        )
    kernel = (height // size[0], width // size[1])
    return nn.Identity() if kernel == (1, 1) else nn.AvgPool2d(kernel)


def list_trained(shipped: Projected) -> list[Parameter]:
    """Return the parameters of the student up to its last tap, and those of the projectors."""
    return [*shipped.backbone.parameters(), *(p for branch in shipped.each_branch() for p in branch.projector.parameters())]


def project_student(step: Step, shipped: Projected) -> list[Tensor]:
    """Return for each teacher the student's last map in the shape in which the two meet, [B, c_t, h, w]."""
    features = step.student.features[-1]
    return [step.apply(branch.projector, branch.pool(features)) for branch in shipped.each_branch()]


def pool_teachers(step: Step, teacher_pools: nn.ModuleList) -> list[Tensor]:
    """Return the last map of each teacher in the same shape, [B, c_t, h, w]."""
    return [_pool_teacher(step, index, teacher_pool) for index, teacher_pool in enumerate(teacher_pools)]


def _pool_teacher(step: Step, index: int, teacher_pool: nn.Module) -> Tensor:
    features = step.teacher(index).features
    return (
        features[-1] if isinstance(teacher_pool, nn.Identity) else step.apply_to_teacher(teacher_pool, index, len(features) - 1)
    )


def average_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of logits, [B, K]; of a single one without an operator."""
    return logits[0] if len(logits) == 1 else torch.stack(list(logits)).mean(dim=0)


def remove_head(network: Network, image: Tensor, *, where: str) -> Network:
    """Return a network up to its last tap: it shares every weight with the whole one and lacks those that follow.

    What follows without weights, such as pooling, stays where it is; nothing reads it, so that it is not exported.

    Args:
        network: The whole network; left as it was.
        image: One image, [1, C, H, W].
        where: Name of the method, for the message.

    Raises:
        CompressError: The network does not run without the weights that follow its last tap.
    """
    tap = network.taps[-1]
    rest = _replace_by_identity(network.module, _find_weights_after(network, tap, image))
    cut = Network(rest, taps=(tap,), logits=network.find_logits)
    try:
        with evaluating(cut):
            cut.outputs(image)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CompressError(
            f"method.{where}: the student does not run without the weights behind its last tap {tap!r} ({error}), and would be "
            "shipped without them; tap the map that its pooling reads, and let what follows be modules that are called"
        ) from error
    return cut


def _find_weights_after(network: Network, tap: str, image: Tensor) -> set[str]:
    """Return the names of outermost modules with weights that begin to run only when the tap has run."""
    before: set[nn.Module] = set()
    after: set[nn.Module] = set()
    passed: list[bool] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, _inputs: (after if passed and module not in before else before).add(module)
        )
        for module in network.module.modules()
    ]
    handles.append(network.module.get_submodule(tap).register_forward_hook(lambda *_: passed.append(True)))
    try:
        with evaluating(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    known = network.module.named_modules(remove_duplicate=False)
    heads = [name for name, module in known if module in after and module.state_dict()]
    return {name for name in heads if not any(name.startswith(f"{other}.") for other in heads)}


def _replace_by_identity(module: nn.Module, names: set[str]) -> nn.Module:
    """Return a module that shares everything but the named submodules, in whose place nothing happens."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for child in {name.partition(".")[0] for name in names}:
        inside = {rest for first, _, rest in (name.partition(".") for name in names) if first == child}
        twin._modules[child] = nn.Identity() if "" in inside else _replace_by_identity(module.get_submodule(child), inside)
    return twin


def _run_teacher(teacher: Network, image: Tensor) -> Outputs:
    """Return the outputs of a teacher for the image and some noise, [1 + PROBES, ...]."""
    noise = torch.randn((PROBES, *image.shape[1:]), generator=torch.Generator().manual_seed(0))
    with evaluating(teacher):
        return teacher.outputs(torch.cat([image, noise.to(image)]))


def _refuse_no_taps(setting: Setting, where: str) -> None:
    networks = {"the student": setting.student, **{f"teacher {i}": teacher for i, teacher in enumerate(setting.teachers)}}
    for name, network in networks.items():
        if not network.taps:
            raise CompressError(f"method.{where}: {name} has no taps; name its last map: compress.Network(module, taps=[...])")


def _refuse_other_head(teacher: Network, outputs: Outputs, *, where: str) -> None:
    """Refuse a teacher whose logits are not its classifier's on the pooled last map.

    Raises:
        CompressError: They differ, or the widths do.
    """
    tap, name, channels = teacher.taps[-1], teacher.classifier_name, outputs.features[-1].shape[1]
    classifier = teacher.classifier
    advice = (
        "tap what its global average pooling reads, and name the linear layer that alone follows it, or take another teacher"
    )
    if classifier.in_features != channels:
        raise CompressError(
            f"{where}: its classifier {name!r} takes {classifier.in_features} values and its last tap {tap!r} gives "
            f"{channels} channels, so more than global average pooling lies between them; {advice}"
        )
    with evaluating(classifier):
        shared = classifier(F.adaptive_avg_pool2d(outputs.features[-1], 1).flatten(1))
    difference = float((shared - outputs.logits).abs().max())
    bound = 1e-3 * max(1.0, float(outputs.logits.square().mean().sqrt()))  # another order of sums in float32 makes 1e-6
    if not difference <= bound:
        raise CompressError(
            f"{where}: its classifier {name!r} on the pooled map of its last tap {tap!r} differs from its logits by "
            f"{difference:.3g}, so more than global average pooling lies between them; {advice}"
        )


def _narrow(channels: int, factor: int, where: str) -> int:
    if factor > channels:
        raise CompressError(f"method.{where}.factor: {factor} leaves nothing of the teacher's {channels} channels; lower it")
    return channels // factor
