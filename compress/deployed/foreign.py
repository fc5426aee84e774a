"""Time files of other tools: what they take is read from the file, and noise of that type and shape is fed to them.

Nothing is asked of their outputs. Weights in further files are read only where these lie beside the file, under plain names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.text import format_bytes, quantify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.protocol import Subject
    from exporters.verification.model_file import Port

READABLE = (".onnx", ".xml")
"""Endings of files whose inputs can be read from them."""
TYPES: Mapping[str, str] = {
    "float32": "float32", "float": "float32", "float16": "float16", "f16": "float16", "double": "float64", "f64": "float64",
    "uint8": "uint8", "int8": "int8", "i8": "int8", "uint16": "uint16", "u16": "uint16", "int16": "int16", "i16": "int16",
    "int32": "int32", "int64": "int64", "uint32": "uint32", "u32": "uint32", "uint64": "uint64", "u64": "uint64",
    "bool": "bool", "boolean": "bool",
}  # fmt: skip
"""Types of inputs as formats call them, as NumPy does."""
VARIANTS, VARIANTS_BYTES = 16, 64 << 20
"""So many different inputs at most are fed in turn; one alone would sit in the cache and flatter."""
LARGEST_BYTES = 4 << 30
"""Of the inputs of one call; a shape that needs more is a mistake, or would be killed for it."""
PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")


class Shapes(NamedTuple):
    """What `--shape` says."""

    image: tuple[int, ...] | None
    """[C, H, W] of the images, by an option without a name."""
    named: Mapping[str, tuple[int, ...]]
    """By the name of an input, with or without the images in a call before."""


def parse_shapes(options: Sequence[str]) -> Shapes:
    """Return what the options `--shape` say.

    Raises:
        CompressError: One is neither channels,height,width nor INPUT=SIZES.
    """
    image: tuple[int, ...] | None = None
    named: dict[str, tuple[int, ...]] = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        parts = text.split(",")
        sides = tuple(int(part) for part in parts if part.strip().isdecimal() and len(part) < 10)
        good = len(sides) == len(parts) and 0 not in sides and (bool(name) if equals else len(sides) == 3)
        if not good:
            raise CompressError(
                f"--shape {option}: is not channels,height,width; write for example 3,224,224, or INPUT=3,640,640 for one input"
            )
        needed = 4 * math.prod(sides) * (1 if equals else VARIANTS)
        if needed > LARGEST_BYTES:
            raise CompressError(
                f"--shape {option}: {'it takes' if equals else f'{VARIANTS} such images take'} {format_bytes(needed)}, more "
                f"than the {format_bytes(LARGEST_BYTES)} that are allowed; give the shape that the file takes"
            )
        if equals:
            named[name] = sides
        else:
            image = sides
    return Shapes(image, named)


def add_feeds(subject: Subject, shapes: Shapes, batch_size: int | None) -> Subject:
    """Return a file of another tool with what is fed to it.

    Args:
        subject: The file.
        shapes: What the user said of shapes.
        batch_size: Images in a call; `None` takes what the file fixes, or one.

    Raises:
        CompressError: Its inputs cannot be read or are open and not said, or its weights lie elsewhere than beside it.
        Unreachable: A file with its weights is not there.
    """
    ports = _read_inputs(subject.path)
    names = [port.name for port in ports]
    unknown = sorted({*shapes.named} - {*names})
    if unknown:
        suggestion = plugins.suggest_name(unknown[0], names)
        raise CompressError(f"--shape {unknown[0]}=...: {subject.path} has no such input; {suggestion}")
    main = _find_main(ports)
    size = _choose_batch(subject.path, main, batch_size)
    sizes = {port.name: _choose_shape(subject.path, port, shapes, size, is_main=port is main) for port in ports}
    feeds = tuple(_make_noise(subject.path, ports, sizes).items())
    return replace(subject, batch_size=size, feeds=feeds, beside=tuple(_list_weights(subject.path)))


def read_fixed_batch(path: Path) -> int | None:
    """Return the only number of images that a file of another tool takes in a call; `None` if it takes any.

    Raises:
        CompressError: Its inputs cannot be read.
    """
    shape = _find_main(_read_inputs(path)).shape
    return shape[0] if shape else None


def _read_inputs(path: Path) -> tuple[Port, ...]:
    from exporters.verification.interface import read_interface

    if path.stat().st_size == 0:
        raise CompressError(f"{path}: is empty; get it again")
    found = read_interface(path)
    if found is None or not found.inputs:
        raise CompressError(f"{path}: names no inputs; export it again with inputs")
    return found.inputs


def _find_main(ports: Sequence[Port]) -> Port:
    """Return the input that takes the images: the first of four dimensions, or else the first."""
    return next((port for port in ports if port.shape is not None and len(port.shape) == 4), ports[0])


def _choose_batch(path: Path, main: Port, wanted: int | None) -> int:
    """Return how many images a call has.

    Raises:
        CompressError: The file fixes another number than is wanted.
    """
    fixed = main.shape[0] if main.shape else None
    if fixed is not None and wanted not in (None, fixed):
        raise CompressError(f"{path}: is made for batches of {fixed}, not {wanted}; export it with a dynamic batch")
    return fixed or wanted or 1


def _choose_shape(path: Path, port: Port, shapes: Shapes, batch_size: int, *, is_main: bool) -> tuple[int, ...]:
    """Return the whole shape that is fed to an input.

    Raises:
        CompressError: It is open and nobody said it, or it is fixed otherwise.
    """
    said = shapes.named.get(port.name, shapes.image if is_main else None)
    if said is not None:
        whole = said if port.shape is not None and len(said) == len(port.shape) else (batch_size, *said)
        fits = port.shape is None or (
            len(whole) == len(port.shape) and all(own in (None, side) for own, side in zip(port.shape, whole, strict=True))
        )
        if not fits:
            raise CompressError(
                f"{path}: input {port.name!r} is {_format_shape(port.shape)}, so {','.join(map(str, said))} (--shape) does not "
                "fit; leave --shape out, or give sizes that fit"
            )
        return whole
    if port.shape is None or None in port.shape[1:]:
        inner = ["SIZE"] if port.shape is None else ["SIZE" if side is None else str(side) for side in port.shape[1:]]
        raise CompressError(
            f"{path}: input {port.name!r} is {_format_shape(port.shape)}, so its size is open; say it with --shape "
            f"{port.name}={','.join(inner)}, for each SIZE a number"
        )
    return tuple(batch_size if side is None else side for side in port.shape)


def _format_shape(shape: tuple[int | None, ...] | None) -> str:
    return "of any shape" if shape is None else f"[{', '.join('any' if side is None else str(side) for side in shape)}]"


def _make_noise(path: Path, ports: Sequence[Port], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return what is fed to each input, [variants, ...]: noise for numbers with a point and bytes, else ones.

    Raises:
        CompressError: An input takes no numbers, or the inputs are too large.
    """
    import numpy as np

    unknown = [port for port in ports if port.kind not in TYPES]
    if unknown:
        first = unknown[0]
        raise CompressError(f"{path}: input {first.name!r} takes {first.kind}; files are timed whose inputs are numbers")
    types = {port.name: np.dtype(TYPES[port.kind]) for port in ports}
    needed = sum(types[name].itemsize * math.prod(shape) for name, shape in sizes.items())
    if needed > LARGEST_BYTES:
        raise CompressError(f"{path}: its inputs take {format_bytes(needed)}; give smaller ones with --shape")
    variants, random = max(1, min(VARIANTS, VARIANTS_BYTES // max(needed, 1))), np.random.default_rng(0)
    return {name: _draw(random, types[name], (variants, *shape)) for name, shape in sizes.items()}


def _draw(random: np.random.Generator, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values [variants, ...] of a type; of integers that may be sizes, counts or places, ones."""
    import numpy as np

    if kind.kind == "f":
        return random.standard_normal(shape, dtype=np.float32).astype(kind)
    return random.integers(0, 256, shape, dtype=np.uint8) if kind == np.uint8 else np.ones(shape, kind)


def _list_weights(path: Path) -> list[Path]:
    """Return the files beside an ONNX file in which it keeps weights.

    Raises:
        CompressError: It names a place elsewhere, or something that is no plain file; nothing of it was read.
        Unreachable: A file is not there.
    """
    from exporters.verification.interface import list_weight_files

    found = []
    for location in list_weight_files(path):
        beside = path.parent / location
        if PLAIN_NAME.fullmatch(location) is None or location in (".", ".."):
            raise CompressError(
                f"{path}: keeps weights in {location!r}, which may lie elsewhere than beside it; put that file beside it under "
                "a plain name, or save all in one file: onnx.save(onnx.load(path), new_path)"
            )
        if not beside.exists():
            raise Unreachable(f"{path}: keeps weights in {location!r}, which is not beside it; put it there")
        if beside.is_symlink() or not beside.is_file():
            raise CompressError(f"{path}: keeps weights in {location!r}, which is no plain file; put the file itself there")
        found.append(beside)
    return found


def choose_common_batch(sizes: Mapping[str, int | None], wanted: int | None) -> int:
    """Return how many images all files take in a call.

    Args:
        sizes: What each file fixes, by its name.
        wanted: By the user, if at all.

    Raises:
        CompressError: They fix different numbers.
    """
    fixed = {size for size in sizes.values() if size is not None}
    if len(fixed) > 1:
        listed = ", ".join(f"{name} {quantify(size, 'image')}" for name, size in sizes.items() if size is not None)
        raise CompressError(f"the files take different numbers of images in a call ({listed}); measure them one by one")
    return wanted or next(iter(fixed), 1)
