"""The engine as a library: `compress.distill` for the user's own modules and loaders.

It is the same engine that `compress run` uses: the same checks before training, the same loop, the same methods.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from compress import plugins
from compress.data import Batch, CheckedLoader, FromLoader, Loader, refuse_labels
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import describe_training, make_key
from compress.freezing import evaluating
from compress.methods import Combined, Method, Setting
from compress.models import Network
from compress.recipe import MethodSection, TrainSection
from compress.recipe.types import build_section_union
from compress.records import Accuracy, Epoch
from compress.training import evaluate, loop, preflight
from compress.training.compile import choose_engine
from compress.training.device import choose_device

Methods = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


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
    taps: str | Sequence[str] = (),
    settings: TrainSection | None = None,
    seed: int = 0,
    state: str | Path | None = None,
    events: Events | None = None,
) -> Distilled:
    """Train a student with the help of one or several teachers.

    With an `engine` in `settings` other than `eager`, torch forgets all that the process has compiled before, and compiles it
    again when it is called next: what compiles here calls `torch.compiler.reset` for each stage, since torch 2.10 has no
    public way to forget the compiled networks of earlier stages alone.

    Args:
        teacher: Network or networks, images [B, C, H, W] to logits [B, K], whose weights are never changed; `[]` for none.
        student: The network that is trained, in place and whole: none of its parameters may be frozen.
        train: Batches of (images float32 [B, C, H, W], labels int64 [B]), with a length; iterated once an epoch.
        validation: Held-out batches of the same kind.
        method: A method's name, or names with their options: `{"dih": {"logit_loss": "dist"}}`, or a list of these. Several are
            combined.
        taps: Names of the teacher's submodules whose feature maps a method may use; a `compress.Network` brings its own.
        settings: How to train; `device` decides where, and the batches are the loader's whatever `batch_size` says.
        seed: Seed of what is random.
        state: Folder in which an interrupted call keeps its state and from which the same call continues.
        events: Where progress goes.

    Raises:
        CompressError: A name, an option or a shape does not fit, the student is frozen in part, or a teacher knows nothing;
            nothing was trained. Or a later batch of `train` does not fit; that ends the training.
    """
    settings = _check_settings(settings)
    sections = _check_methods(method)
    given = [CheckedLoader("train", train), CheckedLoader("validation", validation)]
    modules = _list_modules(teacher, student)
    where = choose_device(settings.device)
    layout = loop.MEMORY_FORMATS[settings.memory_format]
    batches, held_out = (FromLoader(loader, device=where, seed=seed, memory_format=layout) for loader in given)
    first = next(batches.epoch(0))
    tapped = (taps,) if isinstance(taps, str) else taps
    networks = tuple(_wrap(each, tapped).to(where) for each in modules)
    learner = _wrap(student, ()).to(where)
    _refuse_frozen(learner)
    classes = _count_classes("student", learner, first.images[:1])
    for index, network in enumerate(networks):
        _count_classes(f"teacher {index}", network, first.images[:1])
    refuse_labels("train", first.labels, classes)
    given[0].classes = classes
    torch.manual_seed(seed)
    setting = Setting(learner, networks, first.images[:1], classes, lambda role: _redraw(learner, role, seed).to(where))
    whole = _build_method(sections, setting).to(where)
    with _restore_flags([*networks, learner]):
        _check_teachers(networks, held_out, classes)
        preflight.check_structure(whole, first)
        files = [
            None if state is None else _get_state_path(Path(state), stage, sections, settings, seed) for stage in whole.stages()
        ]
        fits = [
            _fit(stage, batches, held_out, first, settings, seed=seed, state=file, events=events or Events())
            for stage, file in zip(whole.stages(), files, strict=True)
        ]
    for file in files:
        if file is not None:
            file.unlink(missing_ok=True)
            _get_decision_path(file).unlink(missing_ok=True)
    epochs = tuple(epoch for fit in fits for epoch in fit.epochs)
    return Distilled(whole.deployable().eval(), fits[-1].validation["student"], epochs)


def _fit(
    stage: Method, train: FromLoader, held_out: FromLoader, first: Batch, settings: TrainSection, *, seed: int,
    state: Path | None, events: Events,
) -> loop.Fit:  # fmt: skip
    settings = stage.schedule(settings)
    running = choose_engine(
        stage, first, engine=settings.engine, steps=settings.epochs * len(train),
        autocast=loop.DTYPES[settings.precision], events=events, decision=state and _get_decision_path(state),
    )  # fmt: skip
    return loop.fit(
        stage, train, held_out, settings=settings, seed=seed, state=state, events=events, forward=running.forward
    )  # fmt: skip


def _get_decision_path(state: Path) -> Path:
    """Return where it is kept what runs the student of a stage, beside its state."""
    return state.with_suffix(".engine.json")


def _check_teachers(networks: Sequence[Network], held_out: FromLoader, classes: int) -> None:
    names = [str(label) for label in range(classes)]
    labels = evaluate.collect_labels(held_out)
    refuse_labels("validation", torch.from_numpy(labels), classes)
    for index, network in enumerate(networks):
        preflight.check_teacher(f"teacher {index}", evaluate.compute_logits(network, held_out), labels, names)


def _get_state_path(folder: Path, stage: Method, sections: Sequence[MethodSection], settings: TrainSection, seed: int) -> Path:
    """Return where a stage keeps its state: another method, network, setting or seed has another file."""
    shapes = {name: list(value.shape) for name, value in stage.state_dict().items()}
    methods = [section.model_dump(mode="json") for section in sections]
    key = make_key(
        shapes=shapes, methods=methods, settings=settings.model_dump(mode="json"), seed=seed, engine=describe_training()
    )
    return folder / f"{stage.stage}-{key[:16]}.pt"


@contextmanager
def _restore_flags(networks: Sequence[Network]) -> Iterator[None]:
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


def _wrap(module: nn.Module, taps: Sequence[str]) -> Network:
    return module if isinstance(module, Network) else Network(module, taps=taps)


def _redraw(student: Network, role: str, seed: int) -> Network:
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


def _count_classes(who: str, network: Network, image: Tensor) -> int:
    """Return how many classes a network tells apart; its modes end as they were.

    Raises:
        CompressError: It cannot take the image, or what it gives is no logits.
    """
    try:
        with evaluating(network):
            logits = network(image)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CompressError(f"{who}: cannot take images {list(image.shape)}: {reason}; match it to the loader") from error
    found = f"{list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise CompressError(f"{who}: gives {found}; it must give logits [batch, classes]: wrap it in a module that does")
    return int(logits.shape[1])


def _check_settings(settings: TrainSection | None) -> TrainSection:
    if settings is not None and not isinstance(settings, TrainSection):
        raise CompressError(f"settings: is a {type(settings).__name__}; give compress.TrainSection(epochs=..., lr=...)")
    return settings or TrainSection()


def _list_modules(teacher: nn.Module | Sequence[nn.Module], student: nn.Module) -> list[nn.Module]:
    """Return the teachers, after they and the student were found to be modules."""
    if not isinstance(teacher, nn.Module | Sequence):
        raise CompressError(f"teacher: is a {type(teacher).__name__}; give a module or a list of modules, [] for no teacher")
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    named = {"student": student, **{f"teacher {index}": each for index, each in enumerate(teachers)}}
    for who, module in named.items():
        if not isinstance(module, nn.Module):
            raise CompressError(f"{who}: is a {type(module).__name__}; give a torch.nn.Module")
    return teachers


def _refuse_frozen(student: Network) -> None:
    """Refuse a student of which the user froze a part, since methods train the whole of it."""
    parameters = dict(student.module.named_parameters())
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise CompressError(
            f"student: {len(frozen)} of its {len(parameters)} parameters are frozen, first {frozen[0]!r}, and all would be "
            "trained; call requires_grad_(True) on them, or hold what must stay as it is in buffers"
        )


def _list_methods(method: Methods) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every method's name with its options; a list may also hold `{"name": ..., option: ...}`, as in a recipe."""
    if isinstance(method, str):
        return [(method, {})]
    pairs: list[tuple[str, Any]]
    if isinstance(method, Mapping) and "name" in method:
        pairs = [(method["name"], {option: value for option, value in method.items() if option != "name"})]
    elif isinstance(method, Mapping):
        pairs = list(method.items())
    elif isinstance(method, Sequence):
        pairs = [pair for each in method for pair in _list_methods(each)]
    else:
        raise CompressError(f"method: is a {type(method).__name__}; give a name, names with their options, or a list of these")
    for name, options in pairs:
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise CompressError(f"method.{name}: has options {options!r}; give a mapping, for example {{'kd': {{}}}}")
    return pairs


def _check_methods(method: Methods) -> list[MethodSection]:
    """Return the options of every method, checked as a recipe's are."""
    wanted = _list_methods(method)
    if not wanted:
        raise CompressError("method: names none; see `compress list methods`")
    names = [name for name, _ in wanted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CompressError(f"method: names {twice[0]!r} twice; name it once, with all its options")
    adapter: TypeAdapter[MethodSection] = TypeAdapter(build_section_union(MethodSection, "methods", "name"))
    sections = []
    for name, options in wanted:
        known = plugins.describe("methods", name).options
        for option in options:
            if option not in known:
                raise CompressError(
                    f"method.{name}: there is no option {option!r}; {plugins.suggest_name(str(option), list(known))}"
                )
        try:
            sections.append(adapter.validate_python({"name": name, **options}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CompressError(f"method.{where}: {first['msg']}, not {first['input']!r}") from error
    return sections


def _build_method(sections: Sequence[MethodSection], setting: Setting) -> Method:
    built = {section.name: plugins.load("methods", section.name)(setting, **section.options()) for section in sections}
    return next(iter(built.values())) if len(built) == 1 else Combined(setting, built)
