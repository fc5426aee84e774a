"""Build the networks and methods of a run, with initial weights that depend on a seed and a role alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from compress import plugins
from compress.methods import Combined, Method, Setting
from compress.models import InputFormat, Network, adapt_input, build_model, reorder_classes
from compress.recipe import MethodSection, ModelSection, StartSection, TeacherSection, get_sides
from compress.recipe.class_order import resolve_class_order
from compress.records import Preprocess
from compress.run.context import Run
from compress.run.weights import get_published, obtain_weights
from compress.training import checkpoint


def derive_seed(run: Run, role: str) -> int:
    """Return a seed for one role in the run, such as `teacher1`, that depends on the run's seed and the role alone."""
    return int.from_bytes(hashlib.sha256(f"{run.seed}/{role}".encode()).digest()[:4])


def build_network(run: Run, section: ModelSection, role: str) -> Network:
    """Return a network with random weights that depend on the run's seed and the role alone.

    A teacher takes the images of the data, whatever it was made for (`teacher.mean`, `std`, `image_size`, `channels`).
    """
    if isinstance(section, TeacherSection):
        return _build_teacher(run, section, role, classes=len(run.data.classes))
    return _draw_network(run, section, role, classes=len(run.data.classes), image=run.data.sample_image())


class GivenTeacher(NamedTuple):
    """A teacher with the weights of the user's file."""

    network: Network
    order: tuple[int, ...] | None
    """Output of the teacher for each class of the data, where the recipe declares it."""
    note: str
    """Which of several weights in the file were taken; empty where there was no choice."""


def load_given_teacher(run: Run, section: TeacherSection, role: str) -> GivenTeacher:
    """Return a teacher with the weights of its file, which takes the data's images and gives the data's classes.

    Raises:
        CompressError: The weights or the class order do not fit.
        Unreachable: A file is not there.
    """
    path, known = obtain_weights(run, section, role), None
    if section.classes is not None and section.knows_classes:
        known = resolve_class_order(section.classes, run.data.classes, run.base, where=f"{role}.classes")
    network = _build_teacher(run, section, role, classes=known.outputs if known else len(run.data.classes))
    loaded = checkpoint.load_weights(
        network, path, sha256=section.sha256, ema=section.ema, weights_map=section.weights_map,
        replaces_head=not section.knows_classes,
    )  # fmt: skip
    if not section.knows_classes:
        network.knows_classes = False
        return GivenTeacher(network, None, "its classifier is not used, for it does not know the classes (classes: none)")
    if known is None:
        return GivenTeacher(network, None, loaded.note)
    network = reorder_classes(network, known.order, run.data.sample_image().to(run.device))
    return GivenTeacher(network, known.order, loaded.note)


def start_from_weights(run: Run, section: StartSection, role: str, network: Network) -> str:
    """Load the weights that a network starts from before it is trained, and return what people should know of them.

    A classifier for another number of classes stays as it is. Nothing happens where the section has no weights.

    Raises:
        CompressError: The weights do not fit.
        Unreachable: They are not there.
    """
    if not section.has_weights:
        return ""
    return checkpoint.load_weights(
        network, obtain_weights(run, section, role), sha256=section.sha256, ema=section.ema, weights_map=section.weights_map,
        replaces_head=True,
    ).note  # fmt: skip


def _draw_network(run: Run, section: ModelSection, role: str, *, classes: int, image: Tensor) -> Network:
    torch.manual_seed(derive_seed(run, role))
    network = build_model(section.model, classes, image, section.options())
    return network.to(run.device)


def _build_teacher(run: Run, section: TeacherSection, role: str, *, classes: int) -> Network:
    preprocess = run.data.preprocess
    wanted = find_input_format(section, preprocess)
    sample = run.data.sample_image()
    image = sample.mean(dim=1, keepdim=True).expand(-1, len(wanted.mean), -1, -1)
    if wanted.size is not None:
        image = F.interpolate(image, size=wanted.size)
    network = _draw_network(run, section, role, classes=classes, image=image.contiguous())
    given = InputFormat(preprocess.mean, preprocess.std, preprocess.channels, (preprocess.height, preprocess.width))
    return adapt_input(network, given=given, wanted=wanted, interpolation=preprocess.interpolation).to(run.device)


def find_input_format(section: TeacherSection, preprocess: Preprocess) -> InputFormat:
    """Return how a teacher takes its images; what its section leaves out is as the data has it."""
    channels = section.channels or preprocess.channels
    depth = 1 if channels == "gray" else 3

    def complete(declared: tuple[float, ...] | None, own: tuple[float, ...]) -> tuple[float, ...]:
        if declared is not None:
            return declared * depth if len(declared) == 1 else declared
        if depth != len(own):
            return (sum(own) / len(own),) * depth
        return own[::-1] if channels == "bgr" else own

    own_mean, own_std = section.mean, section.std
    published = get_published(section)
    if published is not None and depth == len(published.mean):  # weights bring their own
        step = -1 if channels == "bgr" else 1
        own_mean, own_std = own_mean or published.mean[::step], own_std or published.std[::step]
    mean, std = complete(own_mean, preprocess.mean), complete(own_std, preprocess.std)
    size = None if section.image_size is None else get_sides(section.image_size)
    return InputFormat(mean, std, channels, size, section.geometry)


def build_method(run: Run, sections: Sequence[MethodSection], teachers: Sequence[Network]) -> Method:
    """Return the method, or the combination of methods, on a fresh student.

    Raises:
        CompressError: A method cannot work with these networks or not with another method.
    """
    student = build_network(run, run.recipe.student, "student")
    start_from_weights(run, run.recipe.student, "student", student)
    image = run.data.sample_image().to(run.device)
    setting = Setting(
        student,
        tuple(teachers),
        image,
        len(run.data.classes),
        lambda role: build_network(run, run.recipe.student, role),
        run.data.task,
    )
    methods: dict[str, Method] = {}
    for section in sections:
        name = section.name if section.name not in methods else f"{section.name}{len(methods) + 1}"
        torch.manual_seed(derive_seed(run, f"method {section.name}"))  # its modules start the same whatever stands beside it
        methods[name] = plugins.load("methods", section.name)(setting, **section.options())
    whole = next(iter(methods.values())) if len(methods) == 1 else Combined(setting, methods)
    return whole.to(run.device)
