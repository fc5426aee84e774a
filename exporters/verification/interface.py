"""What a file promises before it is run: names, shapes and types of input and output, and what it says of itself.

A runtime may convert a type, accept another name, or repeat the first image without a word, and logits do not show it: an
application that was written for the promise would break on it. What the file says of itself (classes, preprocessing) is held
against what the bundle says of it, so that a manifest that was edited, or belongs to another file, is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress.errors import CompressError
from compress.records import Preprocess
from compress.system import quiet as _quiet
from exporters._exporter import CLASS, INPUT, OUTPUT, SCORE
from exporters._openvino.graph import SAID

_SAYS = ("classes", "preprocess", "preprocess_by")
"""What a file says of itself that is held against the bundle."""

Dimensions = tuple[int | None, ...]


class Port(NamedTuple):
    """An input or output."""

    name: str
    kind: str
    """`float32`, `uint8`, or what the format calls it."""
    shape: Dimensions | None
    """`None` for what is only known when the file runs."""


class Promise(NamedTuple):
    """What is promised of a file."""

    preprocess: Preprocess
    """What happens to an image before the network sees it."""
    classes: tuple[str, ...]
    """Names in label order."""
    batch_size: int | None = None
    """The only number of images that it takes; `None` takes any."""
    takes_pixels: bool = False
    """Whether it carries the preprocessing."""
    gives_class: bool = False
    """Whether it also gives class and score."""


class Face(NamedTuple):
    """What a file shows to the outside."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    about: Mapping[str, str]
    """What it says of itself, as the exporter wrote it; empty where it says nothing."""


def read_face(path: Path) -> Face | None:
    """Return what a file shows, or `None` for a format that shows nothing.

    Raises:
        CompressError: The file is damaged.
    """
    reader = {".onnx": _read_onnx, ".xml": _read_openvino}.get(path.suffix)
    return None if reader is None else reader(path)


def broken(face: Face, promise: Promise) -> Iterator[str]:
    """Yield how a file differs from what is promised of it; nothing where it keeps all."""
    preprocess, classes, batch_size, takes_pixels, gives_class = promise
    channels = preprocess.depth
    sides = (preprocess.height, preprocess.width)
    fed: Dimensions = (batch_size, *sides, channels) if takes_pixels else (batch_size, channels, *sides)
    yield from _ports("input", face.inputs, [Port(INPUT, "uint8" if takes_pixels else "float32", fed)])
    given = [Port(OUTPUT, "float32", (batch_size, len(classes)))]
    further = [Port(CLASS, "int64", (batch_size,)), Port(SCORE, "float32", (batch_size,))]
    yield from _ports("output", face.outputs, given + further * gives_class)
    said = face.about
    if "classes" in said and _parsed(said["classes"]) != list(classes):
        yield f"it says of itself that its classes are {said['classes'][:200]}, not {json.dumps(list(classes))[:200]}"
    if "preprocess" in said and _parsed(said["preprocess"]) != preprocess.model_dump(mode="json"):
        wanted = json.dumps(preprocess.model_dump(mode="json"), sort_keys=True)
        yield f"it says of itself that images are prepared by {said['preprocess'][:300]}, not by {wanted}"
    if said.get("preprocess_by", wanted_by := "file" if takes_pixels else "caller") != wanted_by:
        yield f"it says of itself that the {said['preprocess_by']} prepares the images, not the {wanted_by}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ports(what: str, found: Sequence[Port], wanted: Sequence[Port]) -> Iterator[str]:
    if len(found) != len(wanted):
        promised = "one is promised" if len(wanted) == 1 else f"{', '.join(port.name for port in wanted)} are promised"
        yield f"has {len(found)} {what}s ({', '.join(port.name for port in found)}); {promised}"
        return
    for port, promise in zip(found, wanted, strict=True):
        yield from _port(what if len(wanted) == 1 else f"{what} {promise.name!r}", port, promise, open_batch=what == "output")


def _port(what: str, found: Port, wanted: Port, *, open_batch: bool) -> Iterator[str]:
    if found.name != wanted.name:
        yield f"its {what} is called {found.name!r}, not {wanted.name!r}"
    if found.kind != wanted.kind:
        yield f"its {what} is {found.kind}, not {wanted.kind}"
    if found.shape is not None and not _fits(found.shape, wanted.shape or (), batch_may_be_open=open_batch):
        yield f"its {what} has shape {_shown(found.shape)}, not {_shown(wanted.shape or ())}"


def _fits(found: Dimensions, wanted: Dimensions, *, batch_may_be_open: bool) -> bool:
    """Return whether the sizes are the same, as far as they are known; that of the batch is what was promised."""
    return len(found) == len(wanted) and all(
        here == there or (here is None and (index > 0 or batch_may_be_open))
        for index, (here, there) in enumerate(zip(found, wanted, strict=True))
    )


def _shown(shape: Dimensions) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _read_onnx(path: Path) -> Face:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise CompressError(f"{path}: is not an ONNX file ({error}); export it again") from error
    fixed = {tensor.name for tensor in model.graph.initializer}
    about = {item.key: item.value for item in model.metadata_props}
    inputs = tuple(_onnx_port(value) for value in model.graph.input if value.name not in fixed)
    return Face(inputs, tuple(_onnx_port(value) for value in model.graph.output), about)


def _onnx_port(value: Any) -> Port:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}.get(tensor.elem_type)
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    return Port(
        value.name,
        kind or TensorProto.DataType.Name(tensor.elem_type).lower(),
        sizes if tensor.HasField("shape") else None,
    )


def _read_openvino(path: Path) -> Face:
    try:
        model = _quiet.openvino().Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompressError(f"{path}: is not OpenVINO IR with its weights beside it ({reason}); export it again") from error
    about = {key: str(model.get_rt_info([SAID, key]).value) for key in _SAYS if model.has_rt_info([SAID, key])}
    return Face(tuple(map(_openvino_port, model.inputs)), tuple(map(_openvino_port, model.outputs)), about)


def _openvino_port(port: Any) -> Port:
    kind, shape = port.get_element_type().get_type_name(), port.partial_shape
    names = sorted(port.get_names())
    sizes = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
    named = next((name for name in (INPUT, OUTPUT, CLASS, SCORE) if name in names), next(iter(names), ""))
    return Port(named, {"f32": "float32", "u8": "uint8", "i32": "int32", "i64": "int64"}.get(kind, kind), sizes)
