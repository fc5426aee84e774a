"""The engine as a library: `compress.distill` for the user's own modules and loaders.

It is the same engine that `compress run` uses: the same checks before training, the same loop, the same methods.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from compress import plugins
from compress.copying import copy_module
from compress.data import Batch, CheckedLoader, FromLoader, Loader, Unpack, refuse_labels
from compress.errors import CompressError
from compress.events import Events
from compress.fingerprint import describe_training, make_key
from compress.forward_pass import FORWARD_ERRORS, explain_failure
from compress.freezing import evaluating
from compress.input_probes import Convention, find_range
from compress.methods import Combined, Method, Setting
from compress.models import Network, refuse_empty, wrap_module
from compress.recipe import MethodSection, ProbeSection, TrainSection
from compress.recipe.types import build_section_union
from compress.records import Accuracy, Epoch
from compress.training import evaluate, loop, network_checks, preflight
from compress.training.device import choose_device
from compress.training.engines import choose_engine
from compress.training.given_teacher import FURTHER, SCREENED, HeldOut, InputNow, check_given_teacher
from compress.training.linear_probe import compute_features, fit_probe, set_classifier
from compress.training.optimizer import BuildOptimizer

COPIED = "{who}: its forward pass changes its images in place, so it is given copies of them"
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
    unpack: Unpack | None = None,
    logits: Callable[[Any], Tensor] | None = None,
    optimizer: BuildOptimizer | None = None,
) -> Distilled:
    """Train a student with the help of one or several teachers.

    Parameters of the student that are frozen stay as they are, and modules that hold nothing else keep their statistics, too.

    With an `engine` in `settings` other than `eager`, torch forgets all that the process has compiled before, and compiles it
    again when it is called next: what compiles here calls `torch.compiler.reset` for each stage, since torch 2.10 has no
    public way to forget the compiled networks of earlier stages alone.

    Args:
        teacher: Network or networks, images [B, C, H, W] to logits [B, K], whose weights are never changed; `[]` for none.
        student: The network that is trained, in place.
        train: Batches of (images float32 [B, C, H, W], labels [B]); iterated once an epoch, and counted before where it has no
            length. Labels are the class of each image in any integer type, or one-hot, or shares that sum to 1, [B, K].
        validation: Held-out batches of the same kind; of shares, the largest is the label.
        method: A method's name, or names with their options: `{"dih": {"logit_loss": "dist"}}`, or a list of these. Several are
            combined.
        taps: Names of the teacher's submodules whose feature maps a method may use; a `compress.Network` brings its own.
            Default: the last map of each resolution. The student's are always found so, or brought by a `compress.Network`.
        settings: How to train; `device` decides where, and the batches are the loader's whatever `batch_size` says.
        seed: Seed of what is random.
        state: Folder in which an interrupted call keeps its state and from which the same call continues.
        events: Where progress goes; default: to the terminal if there is one, with the time that is left. `Events()` is silent.
        unpack: Returns images and labels of a batch that is no such pair: `lambda batch: (batch["pixel_values"],
            batch["labels"])`.
        logits: Finds the logits in what a network gives where that is no tensor: `lambda output: output.logits`.
        optimizer: Returns the optimizer of the parameters that it is given: `lambda parameters: Adam(parameters, lr=1e-3)`;
            called once for each stage. Its learning rates follow the schedule of the settings. What it leaves out is not
            trained. Default: that of the settings.

    Raises:
        CompressError: A name, an option or a shape does not fit, the student is frozen whole, or a teacher knows nothing;
            nothing was trained. Or a later batch of `train` does not fit; that ends the training.

    Example:
        >>> import torch, compress
        >>> from torch import nn
        >>> labels = torch.arange(64) % 2
        >>> images = torch.randn(64, 1, 8, 8) + 2 * labels[:, None, None, None]  # one class is brighter
        >>> batches = [{"picture": images, "class": labels}]
        >>> student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> done = compress.distill(
        ...     [], student, train=batches, validation=batches, method="supervised",
        ...     settings=compress.TrainSection(epochs=20, lr=0.2),
        ...     unpack=lambda batch: (batch["picture"], batch["class"]),
        ... )
        >>> done.validation.top1_percent > 80
        True
    """
    settings, events = _check_settings(settings), events or _ShownEvents()
    sections = _check_methods(method)
    given = [
        CheckedLoader("train", train, unpack=unpack, keeps_shares=True),
        CheckedLoader("validation", validation, unpack=unpack),
    ]
    for name, loader in zip(("train", "validation"), given, strict=True):
        if loader.is_counted:
            events.say(f"{name}: has no length; {len(loader)} batches were counted in one pass over it")
    modules = _list_modules(teacher, student)
    _check_hooks(unpack=unpack, logits=logits, optimizer=optimizer)
    where = choose_device(settings.device)
    layout = loop.MEMORY_FORMATS[settings.memory_format]
    batches, held_out = (FromLoader(loader, device=where, seed=seed, memory_format=layout) for loader in given)
    first = next(batches.epoch(0))
    image = first.images[:1].clone()  # what changes its images in place is not known yet
    tapped = ((taps,) if isinstance(taps, str) else tuple(taps)) or None
    networks = tuple(
        _wrap(f"teacher {index}", each.to(where), image, events, taps=tapped, logits=logits)
        for index, each in enumerate(modules)
    )
    learner = _wrap("student", student.to(where), image, events, taps=None, logits=logits)
    learner.fixed = _find_frozen(learner)
    classes = _count_classes("student", learner, image)
    for index, network in enumerate(networks):
        _count_classes(f"teacher {index}", network, image)
    _check_networks(learner, networks, first, held_out, events)
    refuse_labels("train", first.labels, classes)
    given[0].classes = classes
    torch.manual_seed(seed)
    setting = Setting(learner, networks, image, classes, lambda role: _redraw(learner, role, seed).to(where))
    whole = _build_method(sections, setting).to(where)
    with _restore_flags([*networks, learner]):
        _check_teachers(networks, held_out, classes, events)
        preflight.check_structure(whole, first)
        _check_smallest_batch(whole, first, given[0])
        decisive = {
            "methods": [section.model_dump(mode="json") for section in sections],
            "settings": settings.model_dump(mode="json"),
            "seed": seed,
            "optimizer": optimizer and _name_callable(optimizer),
            "fixed": sorted(learner.fixed),
        }
        files = [None if state is None else _get_state_path(Path(state), stage, decisive) for stage in whole.stages()]
        fits = [
            _fit(stage, batches, held_out, first, settings, seed=seed, state=file, events=events, optimizer=optimizer)
            for stage, file in zip(whole.stages(), files, strict=True)
        ]
    for file in files:
        if file is not None:
            file.unlink(missing_ok=True)
            _get_decision_path(file).unlink(missing_ok=True)
    epochs = tuple(epoch for fit in fits for epoch in fit.epochs)
    return Distilled(whole.deployable().eval(), fits[-1].validation["student"], epochs)


def probe_teacher(
    teacher: nn.Module,
    *,
    train: Loader,
    validation: Loader,
    classes: int | None = None,
    ridges: Sequence[float] = ProbeSection().ridges,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    events: Events | None = None,
    unpack: Unpack | None = None,
    logits: Callable[[Any], Tensor] | None = None,
) -> nn.Module:
    """Return a copy of a network that knows other classes, whose classifier is fitted to those here; then it can teach.

    Each image is seen once by the frozen layers, and a logistic regression is fitted to what the classifier reads of it.

    Args:
        teacher: Maps images [B, C, H, W] to logits of any classes, by a linear layer at its end; it is left as it is. A
            `compress.Network` names that layer itself.
        train: Batches of (images float32 [B, C, H, W], labels), as for `distill`; images without augmentation are best.
        validation: Held-out batches of the same kind, by which the penalty is chosen.
        classes: How many there are; default: as many as the largest label of both says.
        ridges: Penalties that are tried, as `probe.ridges` of a recipe.
        device: Where the network runs, as `settings.device` of `distill`; the copy stays there.
        seed: Seed of what the loaders draw.
        events: Where progress goes, as for `distill`.
        unpack: As for `distill`.
        logits: As for `distill`.

    Raises:
        CompressError: A batch does not fit, or the network has no linear layer at its end that reads one vector for each image.

    Example:
        >>> import torch, compress
        >>> from torch import nn
        >>> labels = torch.arange(64) % 2
        >>> images = torch.randn(64, 1, 8, 8) + 2 * labels[:, None, None, None]  # one class is brighter
        >>> other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))
        >>> teacher = compress.probe_teacher(other, train=[(images, labels)], validation=[(images, labels)])
        >>> float((teacher(images).argmax(dim=1) == labels).float().mean()) > 0.9
        True
    """
    events = events or _ShownEvents()
    _check_hooks(unpack=unpack, logits=logits)
    if not isinstance(teacher, nn.Module):
        raise CompressError(f"teacher: is a {type(teacher).__name__}; give a torch.nn.Module")
    where = choose_device(device)
    given = [CheckedLoader(name, each, unpack=unpack) for name, each in (("train", train), ("validation", validation))]
    splits = [FromLoader(each, device=where, seed=seed) for each in given]
    first = next(splits[0].epoch(0)).images
    network = _wrap("teacher", copy_module(teacher).to(where), first[:1].clone(), events, taps=(), logits=logits)
    seen = [compute_features(network, split, len(split) * len(first)) for split in splits]
    known = 1 + max(int(each.labels.max()) for each in seen) if classes is None else classes
    for name, each in zip(("train", "validation"), seen, strict=True):
        refuse_labels(name, torch.from_numpy(each.labels), known)
    chosen, _ = fit_probe(seen[0], seen[1], classes=known, ridges=ridges)
    layer = nn.Linear(network.classifier.in_features, known, device=where)
    network.module.set_submodule(network.classifier_name or "", layer)
    set_classifier(network, chosen)
    features = f"{layer.in_features} features of {len(seen[0].labels)} images"
    events.say(f"teacher: {chosen.top1_percent:.2f} % on validation, linear probe of {features}, ridge {chosen.ridge:g}")
    return (network if isinstance(teacher, Network) else network.module).eval()


class _ShownEvents(Events):
    """Events of a caller who gave none: progress on stderr if that is a terminal, warnings as Python's own everywhere."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        super().__init__(console=console if console.is_terminal else None)

    def warn(self, text: str) -> None:
        """Warn, which is seen in a notebook or a log, too."""
        if text not in self.warnings:
            self.warnings.append(text)
            warnings.warn(text.removeprefix("warning: "), stacklevel=4)


def _check_hooks(**hooks: object) -> None:
    for name, hook in hooks.items():
        if hook is not None and not callable(hook):
            raise CompressError(f"{name}: is a {type(hook).__name__}; give a function, see help(compress.distill)")


def _name_callable(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _fit(
    stage: Method, train: FromLoader, held_out: FromLoader, first: Batch, settings: TrainSection, *, seed: int,
    state: Path | None, events: Events, optimizer: BuildOptimizer | None,
) -> loop.Fit:  # fmt: skip
    settings = stage.schedule(settings)
    running = choose_engine(
        stage, first, engine=settings.engine, steps=settings.epochs * len(train),
        autocast=loop.DTYPES[settings.precision], events=events, decision=state and _get_decision_path(state),
    )  # fmt: skip
    return loop.fit(
        stage, train, held_out, settings=settings, seed=seed, state=state, events=events, forward=running.forward,
        optimizer=optimizer,
    )  # fmt: skip


def _get_decision_path(state: Path) -> Path:
    """Return where it is kept what runs the student of a stage, beside its state."""
    return state.with_suffix(".engine.json")


def _check_networks(student: Network, teachers: Sequence[Network], first: Batch, held_out: FromLoader, events: Events) -> None:
    """Check each network on a few images, and give copies to those that change them in place."""
    named = {"student": student, **{f"teacher {index}": network for index, network in enumerate(teachers)}}
    for who, network in named.items():
        found = network_checks.check_network(who, network, first.images, trains=network is student)
        if found.changes_input:
            network.copies_input = True
            events.warn(COPIED.format(who=who))
        if found.note:
            events.warn(f"warning: {found.note}")
    with evaluating(student):
        network_checks.run_forward("student, validation", student, next(held_out.epoch(0)).images)


def _check_smallest_batch(whole: Method, first: Batch, loader: CheckedLoader) -> None:
    """Rehearse a last batch that is smaller than the first, where the loader says how small it is."""
    smallest = loader.find_smallest_batch()
    if smallest is not None and smallest[0] < len(first.images):
        preflight.check_last_batch(whole, first, *smallest)


def _check_teachers(networks: Sequence[Network], held_out: FromLoader, classes: int, events: Events) -> None:
    names = [str(label) for label in range(classes)]
    outputs, labels = evaluate.compute_all_logits(networks, held_out)
    refuse_labels("validation", torch.from_numpy(labels), classes)
    images = _collect_images(held_out, len(labels)) if networks else None
    for index, (network, logits) in enumerate(zip(networks, outputs, strict=True)):
        name = f"teacher {index}"
        network_checks.check_outputs(name, logits)
        if images is not None and logits.shape[1] == classes and np.isfinite(logits).all():
            warning = check_given_teacher(name, network, images.held_out, names, images.now, kind="library")
            if warning:
                events.warn(f"warning: {warning}")
        preflight.check_teacher(name, logits, labels, names)


class _SomeImages(NamedTuple):
    """Some held-out images of the user's loader, and how they seem to be normalised."""

    held_out: HeldOut
    now: InputNow


def _collect_images(held_out: FromLoader, count: int) -> _SomeImages | None:
    """Return some of all held-out images as shares from 0 to 1, as far as their range shows how they were made of them.

    They are drawn from all batches, since those of a folder come class after class. `None` where that cannot be: the images are
    neither gray nor of three channels.

    Args:
        held_out: The loader.
        count: Its images.
    """
    drawn = np.zeros(count, np.bool_)
    drawn[np.random.default_rng(0).permutation(count)[:SCREENED]] = True
    images, labels = _take_images(held_out, lambda _, first: drawn[first:])
    if images.shape[1] not in (1, 3) or not np.isfinite(images).all():
        return None
    mean, std = find_range([images])

    def restore_shares(images: NDArray[np.float32]) -> NDArray[np.float32]:
        shares = images * np.array(std, np.float32).reshape(-1, 1, 1) + np.array(mean, np.float32).reshape(-1, 1, 1)
        return shares.astype(np.float32)

    def take_further(classes: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        left = dict.fromkeys(classes, FURTHER)
        images, labels = _take_images(held_out, lambda labels, _: _draw_some(labels, left))
        return restore_shares(images), labels

    now = InputNow(Convention("", mean, std), is_gray=images.shape[1] == 1, knows_adapter=False)
    return _SomeImages(HeldOut(restore_shares(images), labels, take_further), now)


def _draw_some(labels: NDArray[np.int64], left: dict[int, int]) -> NDArray[np.bool_]:
    """Return which labels [B] are among the classes of which some images are still wanted; fewer are wanted then."""
    chosen = np.zeros(len(labels), np.bool_)
    for row, label in enumerate(labels.tolist()):
        if left.get(label, 0):
            chosen[row], left[label] = True, left[label] - 1
    return chosen


def _take_images(
    held_out: FromLoader, choose: Callable[[NDArray[np.int64], int], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return chosen images [n, C, H, W] of all batches with their labels [n].

    Args:
        held_out: The loader.
        choose: Returns which images of a batch are taken, [at least B], given its labels [B] and the images before it.
    """
    images, labels, first = [], [], 0
    for batch in held_out.epoch(0):
        known = batch.labels.cpu().numpy()
        chosen = choose(known, first)[: len(known)]
        first += len(known)
        images.append(batch.images[torch.from_numpy(chosen)].float().cpu().numpy())
        labels.append(known[chosen])
    return np.concatenate(images), np.concatenate(labels)


def _get_state_path(folder: Path, stage: Method, decisive: Mapping[str, object]) -> Path:
    """Return where a stage keeps its state: another method, network, setting, seed or hook has another file."""
    shapes = {name: list(value.shape) for name, value in stage.state_dict().items()}
    key = make_key(shapes=shapes, engine=describe_training(), **decisive)
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


def _wrap(
    who: str, module: nn.Module, image: Tensor, events: Events, *, taps: Sequence[str] | None,
    logits: Callable[[Any], Tensor] | None,
) -> Network:  # fmt: skip
    """Return the network of a module that was found to be one."""
    try:
        network = wrap_module(module, image, name=who, taps=taps, logits=logits)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise CompressError(f"{who}: logits= fails on what it gives ({type(error).__name__}: {error}); correct it") from error
    if network.copies_input and network is not module:
        events.warn(COPIED.format(who=who))
    return network


def _redraw(student: Network, role: str, seed: int) -> Network:
    """Return a network like the student whose weights are drawn anew, as its layers draw them themselves."""
    twin = copy_module(student)
    fixed = {name.rpartition(".")[0] for name in student.fixed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{role}".encode()).digest()[:4]))
        for name, layer in twin.module.named_modules():
            if name in fixed:
                continue  # what the user froze, which all students have in common
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
            logits = network(image.clone())  # it may change them in place
    except FORWARD_ERRORS as error:
        reason = explain_failure(who, network, error, remedy=network_checks.REMEDY)
        raise CompressError(f"{who}: cannot take images {list(image.shape)}: {reason}") from error
    found = f"{list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor):
        raise CompressError(
            f"{who}: gives {found}; it must give logits [batch, classes]: say where they are with "
            f"{network_checks.propose_logits(logits)}, or wrap it in a module that gives them"
        )
    if logits.dim() != 2:
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
        refuse_empty(who, module)
    return teachers


def _find_frozen(student: Network) -> frozenset[str]:
    """Return the names of the parameters that the user froze.

    Raises:
        CompressError: That is all of them.
    """
    parameters = dict(student.module.named_parameters())
    frozen = frozenset(name for name, parameter in parameters.items() if not parameter.requires_grad)
    if not parameters:
        raise CompressError("student: has no parameters, so nothing can be trained; give it layers that have some")
    if len(frozen) == len(parameters):
        raise CompressError(
            f"student: all of its {len(parameters)} parameters are frozen, so nothing can be trained; call "
            "requires_grad_(True) on those that shall be"
        )
    return frozen


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


@cache
def _build_adapter(_names: tuple[str, ...]) -> TypeAdapter[MethodSection]:
    """Return what checks the options of the methods that are installed: built once, for its types are never freed."""
    return TypeAdapter(build_section_union(MethodSection, "methods", "name"))


def _check_methods(method: Methods) -> list[MethodSection]:
    """Return the options of every method, checked as a recipe's are."""
    wanted = _list_methods(method)
    if not wanted:
        raise CompressError("method: names none; see `compress list methods`")
    names = [name for name, _ in wanted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CompressError(f"method: names {twice[0]!r} twice; name it once, with all its options")
    adapter = _build_adapter(tuple(plugins.list_names("methods")))
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
