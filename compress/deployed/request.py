"""Read what a user says of a network whose weights no run made; loads nothing heavy, so that a mistake is answered at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import exporters
from compress.errors import CompressError
from compress.recipe import Recipe, parse
from compress.system.files import read_bounded

FEWEST_FOR_INT8 = 32
"""Pictures that must be given for ranges to be estimated on; as many again are compared on."""
LARGEST_NAMES = 16 << 20
"""Bytes of a file of names."""
LONGEST_PATH = 256
"""A longer text is taken for names and not for a path."""

STUB = b"""\
name: export
data: {source: digits, image_size: 224}
teacher: {model: resnet_cifar.resnet8}
student: {model: resnet_cifar.resnet8}
method: supervised
exports: [onnx]
"""
"""Recipe of which a network by name sets the student, and checks its options and formats as ever."""


class Request(NamedTuple):
    """What the user says of a network that is named."""

    model: str
    classes: Sequence[str]
    """Names in label order."""
    image_size: int | None = None
    channels: str | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    images: Path | None = None
    """Folder of pictures to compare on."""


def read_classes(text: str) -> tuple[str, ...]:
    """Return the names of classes from their number, from names separated by commas, or from a file of a name a line.

    Raises:
        CompressError: There are fewer than two, or a name comes twice.
    """
    if text.strip().isdecimal() and len(text) < 7:
        names = tuple(map(str, range(int(text))))
    elif "," not in text and len(text) < LONGEST_PATH and Path(text).is_file():
        content = read_bounded(Path(text), limit_bytes=LARGEST_NAMES, what="names of classes")
        lines = content.decode("utf-8", "replace").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or "" in names or len({*names}) < len(names):
        raise CompressError(
            f"--classes {text[:60]}: gives {len(names)} names that must be two or more and different; write 6, or cat,dog, or "
            "name a file of a name a line"
        )
    return names


def read_numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Return numbers separated by commas; none where there is no text.

    Raises:
        CompressError: They are no finite numbers.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise CompressError(f"--{option} {text}: is not a list of numbers; write for example 0.485,0.456,0.406")
    return numbers


def make_recipe(request: Request, formats: Sequence[str], overrides: Sequence[str]) -> Recipe:
    """Return a recipe of which the student is the named network, with its options, formats and gate checked.

    Args:
        request: What is known of the network.
        formats: Each as `{format: ..., precision: ...}` in YAML; default: ONNX.
        overrides: Options of the network and of the gate, `student.width=16`, as in a recipe.

    Raises:
        CompressError: A name or an option does not fit, or int8 is wanted without pictures.
    """
    settings = [f"student.model={request.model}", *([f"exports=[{', '.join(formats)}]"] if formats else []), *overrides]
    recipe = parse(STUB, "export", settings)
    if any(exporters.load(section).precision == "int8" for section in recipe.exports) and request.images is None:
        raise CompressError(
            "precision int8: its ranges are estimated on pictures, and none are given; give --images FOLDER with at least "
            f"{2 * FEWEST_FOR_INT8} pictures like those that it will see, or another precision"
        )
    return recipe
