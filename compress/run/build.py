"""Build the networks and methods of a run, with initial weights that depend on a seed and a role alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from compress import plugins
from compress.methods import Combined, Method, Setting
from compress.models import Network, build_model
from compress.recipe import MethodSection, ModelSection
from compress.run.context import Run
from compress.training import checkpoint


def derive_seed(run: Run, role: str) -> int:
    """Return a seed for one role in the run, such as `teacher1`, that depends on the run's seed and the role alone."""
    return int.from_bytes(hashlib.sha256(f"{run.seed}/{role}".encode()).digest()[:4])


def build_network(run: Run, section: ModelSection, role: str) -> Network:
    """Return a network with random weights that depend on the run's seed and the role alone."""
    torch.manual_seed(derive_seed(run, role))
    network = build_model(section.model, len(run.data.classes), run.data.sample_image(), section.options())
    return network.to(run.device)


def build_method(run: Run, sections: Sequence[MethodSection], teachers: Sequence[Network]) -> Method:
    """Return the method, or the combination of methods, on a fresh student.

    Raises:
        CompressError: A method cannot work with these networks or not with another method.
    """
    student = build_network(run, run.recipe.student, "student")
    if run.recipe.student.weights is not None:
        checkpoint.load_weights(student, run.base / run.recipe.student.weights)
    image = run.data.sample_image().to(run.device)
    setting = Setting(
        student, tuple(teachers), image, len(run.data.classes), lambda role: build_network(run, run.recipe.student, role)
    )
    methods: dict[str, Method] = {}
    for section in sections:
        name = section.name if section.name not in methods else f"{section.name}{len(methods) + 1}"
        torch.manual_seed(derive_seed(run, f"method {section.name}"))  # its modules start the same whatever stands beside it
        methods[name] = plugins.load("methods", section.name)(setting, **section.options())
    whole = next(iter(methods.values())) if len(methods) == 1 else Combined(setting, methods)
    return whole.to(run.device)
