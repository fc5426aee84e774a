"""Interface of a model file: names, types and shapes of its input and outputs, and its metadata, read without running it.

A runtime may convert a type, accept another name, or repeat the first image silently, and logits do not show it: an
application that was written for the expected interface would break on it. The file's metadata (classes, preprocessing) are
compared with the bundle's manifest, so that a manifest that was edited, or belongs to another file, is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress.errors import CompressError
from compress.records import Preprocess
from compress.system import quiet
from exporters._exporter import CLASS, INPUT, OUTPUT, SCORE
from exporters._onnx.external_data import list_external_files
from exporters._openvino.graph import METADATA

_COMPARED_KEYS = ("classes", "preprocess", "preprocess_by")
"""Metadata that are compared with the manifest."""

Dimensions = tuple[int | None, ...]


class Port(NamedTuple):
    """An input or output."""

    name: str
    kind: str
    """`float32`, `uint8`, or what the format calls it."""
    shape: Dimensions | None
    """`None` for what is only known when the file runs."""


class ExpectedInterface(NamedTuple):
    """Input and outputs that a file must have, by its entry in the manifest."""

    preprocess: Preprocess
    """What happens to an image before the network sees it."""
    classes: tuple[str, ...]
    """Names in label order."""
    batch_size: int | None = None
    """The only number of images that it takes; `None` takes any."""
    takes_pixels: bool = False
    """Whether it normalises by itself, and so takes uint8 [batch, height, width, channels]."""
    gives_class: bool = False
    """Whether it also gives `class` and `score`, each [batch]."""


class Interface(NamedTuple):
    """Input and outputs that a file has, read from the file itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    about: Mapping[str, str]
    """Its metadata, as the exporter wrote them; empty where there are none."""


def read_interface(path: Path) -> Interface | None:
    """Read the interface of a file; `None` for a format from which it cannot be read.

    Raises:
        CompressError: The file is damaged.
    """
    reader = {".onnx": _read_onnx, ".xml": _read_openvino}.get(path.suffix)
    return None if reader is None else reader(path)


def list_weight_files(path: Path) -> list[str]:
    """Return what an ONNX file names as the places of weights outside of it, each once; nothing for other formats.

    Raises:
        CompressError: It is no ONNX file.
    """
    return list_external_files(path) if path.suffix == ".onnx" else []


def find_violations(found: Interface, expected: ExpectedInterface) -> Iterator[str]:
    """Yield each difference between the interface of a file and the expected one.

    Args:
        found: Of the file.
        expected: By its entry in the manifest.
    """
    preprocess, classes, batch_size, takes_pixels, gives_class = expected
    channels = preprocess.depth
    sides = (preprocess.height, preprocess.width)
    fed: Dimensions = (batch_size, *sides, channels) if takes_pixels else (batch_size, channels, *sides)
    yield from _compare_ports("input", found.inputs, [Port(INPUT, "uint8" if takes_pixels else "float32", fed)])
    given = [Port(OUTPUT, "float32", (batch_size, len(classes)))]
    further = [Port(CLASS, "int64", (batch_size,)), Port(SCORE, "float32", (batch_size,))]
    yield from _compare_ports("output", found.outputs, given + further * gives_class)
    about = found.about
    if "classes" in about and _parse(about["classes"]) != list(classes):
        yield f"it says of itself that its classes are {about['classes'][:200]}, not {json.dumps(list(classes))[:200]}"
    if "preprocess" in about and _parse(about["preprocess"]) != preprocess.model_dump(mode="json"):
        wanted = json.dumps(preprocess.model_dump(mode="json"), sort_keys=True)
        yield f"it says of itself that images are prepared by {about['preprocess'][:300]}, not by {wanted}"
    if about.get("preprocess_by", wanted_by := "file" if takes_pixels else "caller") != wanted_by:
        yield f"it says of itself that the {about['preprocess_by']} prepares the images, not the {wanted_by}"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _compare_ports(what: str, found: Sequence[Port], wanted: Sequence[Port]) -> Iterator[str]:
    if len(found) != len(wanted):
        names = "one is expected" if len(wanted) == 1 else f"{', '.join(port.name for port in wanted)} are expected"
        yield f"has {len(found)} {what}s ({', '.join(port.name for port in found)}); {names}"
        return
    for port, expected in zip(found, wanted, strict=True):
        called = what if len(wanted) == 1 else f"{what} {expected.name!r}"
        yield from _compare_port(called, port, expected, open_batch=what == "output")


def _compare_port(what: str, found: Port, wanted: Port, *, open_batch: bool) -> Iterator[str]:
    if found.name != wanted.name:
        yield f"its {what} is called {found.name!r}, not {wanted.name!r}"
    if found.kind != wanted.kind:
        yield f"its {what} is {found.kind}, not {wanted.kind}"
    if found.shape is not None and not _is_same_shape(found.shape, wanted.shape or (), batch_may_be_open=open_batch):
        yield f"its {what} has shape {_format_shape(found.shape)}, not {_format_shape(wanted.shape or ())}"


def _is_same_shape(found: Dimensions, wanted: Dimensions, *, batch_may_be_open: bool) -> bool:
    """Return whether the sizes are the same, as far as they are known; an open batch may have been expected to be fixed."""
    return len(found) == len(wanted) and all(
        here == there or (here is None and (index > 0 or batch_may_be_open))
        for index, (here, there) in enumerate(zip(found, wanted, strict=True))
    )


def _format_shape(shape: Dimensions) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _read_onnx(path: Path) -> Interface:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise CompressError(f"{path}: is not an ONNX file ({error}); export it again") from error
    fixed = {tensor.name for tensor in model.graph.initializer}
    about = {item.key: item.value for item in model.metadata_props}
    inputs = tuple(_describe_onnx_port(value) for value in model.graph.input if value.name not in fixed)
    return Interface(inputs, tuple(_describe_onnx_port(value) for value in model.graph.output), about)


def _describe_onnx_port(value: Any) -> Port:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}.get(tensor.elem_type)
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    return Port(
        value.name,
        kind or TensorProto.DataType.Name(tensor.elem_type).lower(),
        sizes if tensor.HasField("shape") else None,
    )


def _read_openvino(path: Path) -> Interface:
    try:
        model = quiet.import_openvino().Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CompressError(f"{path}: is not OpenVINO IR with its weights beside it ({reason}); export it again") from error
    about = {key: str(model.get_rt_info([METADATA, key]).value) for key in _COMPARED_KEYS if model.has_rt_info([METADATA, key])}
    return Interface(
        tuple(map(_describe_openvino_port, model.inputs)), tuple(map(_describe_openvino_port, model.outputs)), about
    )


def _describe_openvino_port(port: Any) -> Port:
    kind, shape = port.get_element_type().get_type_name(), port.partial_shape
    names = sorted(port.get_names())
    sizes = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
    named = next((name for name in (INPUT, OUTPUT, CLASS, SCORE) if name in names), next(iter(names), ""))
    return Port(named, {"f32": "float32", "u8": "uint8", "i32": "int32", "i64": "int64"}.get(kind, kind), sizes)
