"""The engine as a library: `compress.distill` for the user's own modules and loaders.

It is the same engine that `compress run` uses: the same pre-flight, the same loop, the same methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress import plugins, preflight, trainer
from compress.data._loader import FromLoader
from compress.errors import CompressError
from compress.events import Events
from compress.methods._combined import Combined
from compress.methods._method import Method, Setting
from compress.models._network import Network
from compress.recipe import TrainSection
from compress.records import Accuracy, Epoch

Loader = Iterable[tuple[Tensor, Tensor]]
Methods = str | Mapping[str, Mapping[str, Any]]


class Distilled(NamedTuple):
    """What `distill` returns."""

    network: nn.Module
    """What is shipped, in evaluation mode: images [B, C, H, W] to logits [B, K]."""
    validation: Accuracy
    """On the validation loader, at the selected epoch."""
    epochs: tuple[Epoch, ...]
    """Every loss term of every epoch, of all stages."""


def distill(
    teacher: nn.Module | Sequence[nn.Module],
    student: nn.Module,
    *,
    train: Loader,
    validation: Loader,
    method: Methods = "kd",
    taps: Sequence[str] = (),
    settings: TrainSection | None = None,
    seed: int = 0,
    device: str = "cpu",
    state: Path | None = None,
    events: Events | None = None,
) -> Distilled:
    """Train a student with the help of one or several teachers.

    Args:
        teacher: Network or networks, images [B, C, H, W] to logits [B, K], left as they were; none for `supervised`.
        student: The network that is trained, in place.
        train: Batches of (images float32 [B, C, H, W], labels int64 [B]), with a length; iterated once an epoch.
        validation: Held-out batches of the same kind.
        method: A method's name, or names with their options: `{"dih": {"logit_loss": "dist"}}`. Several are combined.
        taps: Names of the teacher's submodules whose feature maps a method may use; a `compress.Network` brings its own.
        settings: How to train.
        seed: Seed of what is random.
        device: Where to train.
        state: Folder in which an interrupted call keeps its state and from which the same call continues.
        events: Where progress goes.

    Raises:
        CompressError: A name, an option or a shape does not fit; nothing was trained.
    """
    where = torch.device(device)
    batches = FromLoader(train, device=where, seed=seed)
    held_out = FromLoader(validation, device=where, seed=seed)
    first = next(batches.epoch(0))
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    networks = tuple(_network(each, taps).to(where) for each in teachers)
    learner = _network(student, ()).to(where)
    classes = _classes(learner, first.images[:1])
    torch.manual_seed(seed)
    whole = _method(method, Setting(learner, networks, first.images[:1], classes)).to(where)
    with _flags_restored([*networks, learner]):
        preflight.structure(whole, first)
        fits = [
            trainer.fit(
                stage,
                batches,
                held_out,
                settings=stage.schedule(settings or TrainSection()),
                seed=seed,
                state=None if state is None else state / f"{stage.stage}.pt",
                events=events,
            )
            for stage in whole.stages()
        ]
    epochs = tuple(epoch for fit in fits for epoch in fit.epochs)
    return Distilled(whole.deployable().eval(), fits[-1].validation["student"], epochs)


@contextmanager
def _flags_restored(networks: Sequence[Network]) -> Iterator[None]:
    """Leave the user's modules as trainable, and in the modes, in which they came."""
    modes = {part: part.training for network in networks for part in network.modules()}
    trainable = {parameter: parameter.requires_grad for network in networks for parameter in network.parameters()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def _network(module: nn.Module, taps: Sequence[str]) -> Network:
    return module if isinstance(module, Network) else Network(module, taps=taps)


def _classes(network: Network, image: Tensor) -> int:
    modes = {part: part.training for part in network.modules()}
    with torch.no_grad():
        logits = network.eval()(image)
    for part, mode in modes.items():
        part.training = mode
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CompressError(f"the student gives {type(logits).__name__}; it must give logits [batch, classes]")
    return int(logits.shape[1])


def _method(method: Methods, setting: Setting) -> Method:
    wanted = {method: {}} if isinstance(method, str) else method
    built: dict[str, Method] = {}
    for name, options in wanted.items():
        known = plugins.describe("methods", name).options
        for option in options:
            if option not in known:
                raise CompressError(f"method.{name}: there is no option {option!r}; {plugins.suggestion(option, list(known))}")
        built[name] = plugins.load("methods", name)(setting, **options)
    if not built:
        raise CompressError("method: names none; see `compress list methods`")
    return next(iter(built.values())) if len(built) == 1 else Combined(setting, built)
