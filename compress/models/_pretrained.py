"""Weights that torchvision and timm publish for their networks: where they are, and how they take their images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from compress.errors import CompressError
from compress.recipe.weights import HUB

DEFAULT = "default"
"""The tag that stands for what the package itself recommends."""
_HASH = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$")
"""The first digits of the sha256, which both packages write into the names of their files."""


class Published(NamedTuple):
    """Weights of a network that its package publishes."""

    name: str
    """What the package calls them."""
    source: str
    """Address, or place on the hub."""
    sha256: str
    """First digits of the checksum, where the package states it; else empty."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    """Height and width in pixels that they were made for."""
    crop_fraction: float
    """Share of the shorter side that the package cuts out (`center_crop`)."""
    interpolation: str


def find_published(model: str, tag: str, options: Mapping[str, Any]) -> Published:
    """Return the published weights of a network that a recipe names.

    Args:
        model: As in a recipe: `torchvision.resnet18`, `timm.mobilenetv3_small_100` or `timm.any`.
        tag: Which of them; `DEFAULT` is what the package recommends.
        options: Of the network; `timm.any` names its architecture there.

    Raises:
        CompressError: The network is of another family, or has no such weights; the message lists near misses.
    """
    family, _, name = model.partition(".")
    if family == "torchvision":
        return _find_in_torchvision(model, name, tag)
    if family == "timm":
        return _find_in_timm(model, str(options.get("architecture", name)), tag)
    raise CompressError(f"{model}: no weights are published for it, as for torchvision's and timm's; name a file")


def _find_in_torchvision(model: str, name: str, tag: str) -> Published:
    from torchvision import models

    known = models.get_model_weights(name).__members__
    if tag == DEFAULT:
        member = models.get_model_weights(name).DEFAULT
    elif tag in known:
        member = known[tag]
    else:
        raise _refuse_tag(model, tag, list(known), "torchvision")
    preset = member.transforms()
    hashed = _HASH.search(member.url)
    size, resized = preset.crop_size[0], preset.resize_size[0]
    return Published(
        f"{name}.{member.name}", member.url, hashed[1] if hashed else "", tuple(preset.mean), tuple(preset.std), size,
        min(1.0, size / resized), preset.interpolation.value,
    )  # fmt: skip


def _find_in_timm(model: str, name: str, tag: str) -> Published:
    import timm

    known = list(dict.fromkeys([*timm.list_pretrained(f"{name}.*"), *timm.list_pretrained(name)]))
    full = name if tag == DEFAULT else f"{name}.{tag}"
    if not known or (tag != DEFAULT and full not in known):
        raise _refuse_tag(model, tag, [each.partition(".")[2] for each in known], f"timm {timm.__version__}")
    facts = timm.get_pretrained_cfg(full)
    repository = facts.hf_hub_id
    if repository and repository.endswith("/"):  # timm's own: the rest is the name
        repository += f"{facts.architecture}.{facts.tag}"
    source = f"{HUB}{repository}" if repository else facts.url
    hashed = None if repository else _HASH.search(facts.url)
    return Published(
        f"{facts.architecture}.{facts.tag}", source, hashed[1] if hashed else "", tuple(facts.mean), tuple(facts.std),
        facts.input_size[-1], facts.crop_pct, facts.interpolation,
    )  # fmt: skip


def _refuse_tag(model: str, tag: str, known: list[str], package: str) -> CompressError:
    if not known:
        return CompressError(f"{model}: {package} publishes no weights for it; name a file, or take another network")
    near = get_close_matches(tag, known, n=3, cutoff=0.3) or known[:5]
    asked = "" if tag == DEFAULT else f" called {tag!r}"
    return CompressError(f"{model}: {package} publishes no weights{asked} for it; there are: {', '.join(near)}")
