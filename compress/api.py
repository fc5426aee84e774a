"""The engine as a library: `compress.distill` for the user's own modules and loaders.

It is the same engine that `compress run` uses: the same checks before training, the same loop, the same methods.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from compress import compiling, evaluate, plugins, preflight, stages, trainer
from compress._fields import variants
from compress.data._loader import FromLoader
from compress.errors import CompressError
from compress.events import Events
from compress.methods._combined import Combined
from compress.methods._method import Method, Setting
from compress.models._network import Batch, Network
from compress.recipe import MethodSection, TrainSection
from compress.records import Accuracy, Epoch
from compress.work import device

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
    state: Path | None = None,
    events: Events | None = None,
) -> Distilled:
    """Train a student with the help of one or several teachers.

    With an `engine` in `settings` other than `eager`, torch forgets all that the process has compiled before, and compiles it
    again when it is called next: what compiles here calls `torch.compiler.reset` for each stage, since torch 2.10 has no
    public way to forget the compiled networks of earlier stages alone.

    Args:
        teacher: Network or networks, images [B, C, H, W] to logits [B, K], whose weights are never changed; `[]` for none.
        student: The network that is trained, in place.
        train: Batches of (images float32 [B, C, H, W], labels int64 [B]), with a length; iterated once an epoch.
        validation: Held-out batches of the same kind.
        method: A method's name, or names with their options: `{"dih": {"logit_loss": "dist"}}`. Several are combined.
        taps: Names of the teacher's submodules whose feature maps a method may use; a `compress.Network` brings its own.
        settings: How to train; `device` decides where, and the batches are the loader's whatever `batch_size` says.
        seed: Seed of what is random.
        state: Folder in which an interrupted call keeps its state and from which the same call continues.
        events: Where progress goes.

    Raises:
        CompressError: A name, an option or a shape does not fit, or a teacher knows nothing; nothing was trained.
    """
    settings = settings or TrainSection()
    where = device(settings.device)
    layout = trainer.FORMATS[settings.memory_format]
    batches, held_out = (FromLoader(loader, device=where, seed=seed, memory_format=layout) for loader in (train, validation))
    first = next(batches.epoch(0))
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    networks = tuple(_network(each, taps).to(where) for each in teachers)
    learner = _network(student, ()).to(where)
    classes = _classes(learner, first.images[:1])
    sections = _sections(method)
    torch.manual_seed(seed)
    setting = Setting(learner, networks, first.images[:1], classes, lambda role: _another(learner, role, seed).to(where))
    whole = _method(sections, setting).to(where)
    with _flags_restored([*networks, learner]):
        _check_teachers(networks, held_out, classes)
        preflight.structure(whole, first)
        files = [None if state is None else _state_file(state, stage, sections, settings, seed) for stage in whole.stages()]
        fits = [
            _fit(stage, batches, held_out, first, settings, seed=seed, state=file, events=events or Events())
            for stage, file in zip(whole.stages(), files, strict=True)
        ]
    for file in files:
        if file is not None:
            file.unlink(missing_ok=True)
            _decision(file).unlink(missing_ok=True)
    epochs = tuple(epoch for fit in fits for epoch in fit.epochs)
    return Distilled(whole.deployable().eval(), fits[-1].validation["student"], epochs)


def _fit(
    stage: Method, train: FromLoader, held_out: FromLoader, first: Batch, settings: TrainSection, *, seed: int,
    state: Path | None, events: Events,
) -> trainer.Fit:  # fmt: skip
    settings = stage.schedule(settings)
    running = compiling.choose(
        stage, first, engine=settings.engine, steps=settings.epochs * len(train),
        autocast=trainer.DTYPES[settings.precision], events=events, decision=state and _decision(state),
    )  # fmt: skip
    return trainer.fit(
        stage, train, held_out, settings=settings, seed=seed, state=state, events=events, forward=running.forward
    )  # fmt: skip


def _decision(state: Path) -> Path:
    """Return where it is kept what runs the student of a stage, beside its state."""
    return state.with_suffix(".engine.json")


def _check_teachers(networks: Sequence[Network], held_out: FromLoader, classes: int) -> None:
    names = [str(label) for label in range(classes)]
    labels = evaluate.labels(held_out)
    for index, network in enumerate(networks):
        preflight.teacher(f"teacher {index}", evaluate.logits(network, held_out), labels, names)


def _state_file(folder: Path, stage: Method, sections: Sequence[MethodSection], settings: TrainSection, seed: int) -> Path:
    """Return where a stage keeps its state: another method, network, setting or seed has another file."""
    shapes = {name: list(value.shape) for name, value in stage.state_dict().items()}
    methods = [section.model_dump(mode="json") for section in sections]
    key = stages.key(
        shapes=shapes, methods=methods, settings=settings.model_dump(mode="json"), seed=seed, engine=stages.engine()
    )
    return folder / f"{stage.stage}-{key[:16]}.pt"


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


def _another(student: Network, role: str, seed: int) -> Network:
    """Return a network like the student whose weights are drawn anew, as its layers draw them themselves."""
    twin = copy.deepcopy(student)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{role}".encode()).digest()[:4]))
        for name, layer in twin.named_modules():
            if callable(getattr(layer, "reset_parameters", None)):
                layer.reset_parameters()
            elif list(layer.parameters(recurse=False)):
                raise CompressError(
                    f"{role}: a fresh student is needed, and {name} ({type(layer).__name__}) cannot draw its weights anew; "
                    "give it a method reset_parameters, or use another method"
                )
    return twin


def _classes(network: Network, image: Tensor) -> int:
    modes = {part: part.training for part in network.modules()}
    with torch.no_grad():
        logits = network.eval()(image)
    for part, mode in modes.items():
        part.training = mode
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CompressError(f"the student gives {type(logits).__name__}; it must give logits [batch, classes]")
    return int(logits.shape[1])


def _sections(method: Methods) -> list[MethodSection]:
    """Return the options of every method, checked as a recipe's are."""
    wanted: Mapping[str, Mapping[str, Any]] = {method: {}} if isinstance(method, str) else method
    if not wanted:
        raise CompressError("method: names none; see `compress list methods`")
    adapter: TypeAdapter[MethodSection] = TypeAdapter(variants(MethodSection, "methods", "name"))
    sections = []
    for name, options in wanted.items():
        known = plugins.describe("methods", name).options
        for option in options:
            if option not in known:
                raise CompressError(f"method.{name}: there is no option {option!r}; {plugins.suggestion(option, list(known))}")
        try:
            sections.append(adapter.validate_python({"name": name, **options}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CompressError(f"method.{where}: {first['msg']}, not {first['input']!r}") from error
    return sections


def _method(sections: Sequence[MethodSection], setting: Setting) -> Method:
    built = {section.name: plugins.load("methods", section.name)(setting, **section.options()) for section in sections}
    return next(iter(built.values())) if len(built) == 1 else Combined(setting, built)
