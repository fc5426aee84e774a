"""Refuse ONNX files that keep weights in other files, for those files could lie anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import CompressError


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that names other files; runtimes would read them from wherever it says.

    Raises:
        CompressError: It does, or it is no ONNX file.
    """
    for name, _ in _find_external_tensors(path):
        raise CompressError(f"{path}: tensor {name!r} lies in another file; a bundle's ONNX files hold all their weights")


def list_external_files(path: Path) -> list[str]:
    """Return what an ONNX file names as the places of its weights, each once, just as it is written there.

    Raises:
        CompressError: It is no ONNX file.
    """
    return list(dict.fromkeys(location for _, location in _find_external_tensors(path)))


def _find_external_tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and location of each tensor that lies in another file.

    Raises:
        CompressError: It is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise CompressError(f"{path}: is not an ONNX file ({error}); get it again") from error
    for tensor in _walk_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            yield tensor.name, next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _walk_tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor of a protobuf message, however deep: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _walk_tensors(item)
