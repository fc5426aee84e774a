"""Interface of a model file, compared with the one that its bundle or run expects; `model_file.py` says how it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from compress.errors import CompressError
from compress.records import Precision, Preprocess
from compress.system import quiet
from exporters._onnx.external_data import list_external_files
from exporters.verification import model_file
from exporters.verification.model_file import Interface


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
    logits_shape: tuple[int, ...] | None = None
    """Of one image; `None` is one logit for each class."""
    boxes: int = 0
    """How many of the last numbers of each answer are a box, which is an output of its own."""


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


def find_violations(found: Interface, expected: ExpectedInterface, precision: Precision) -> Iterator[str]:
    """Yield each difference between the interface of a file and the expected one.

    Args:
        found: Of the file.
        expected: By its entry in the manifest.
        precision: By its entry in the manifest.
    """
    wanted = model_file.Wanted(
        expected.preprocess.model_dump(mode="json"), expected.classes, precision, expected.batch_size, expected.takes_pixels,
        expected.gives_class, expected.logits_shape, expected.boxes,
    )  # fmt: skip
    yield from model_file.find_violations(found, wanted)


def _read_onnx(path: Path) -> Interface:
    try:
        return model_file.read_onnx(path.read_bytes())
    except ValueError as error:
        raise CompressError(f"{path}: is not an ONNX file ({error}); export it again") from error


def _read_openvino(path: Path) -> Interface:
    try:
        return model_file.read_openvino(quiet.import_openvino().Core().read_model(path))
    except (RuntimeError, ValueError) as error:  # ValueError: text that is not UTF-8
        reason = str(error).strip().splitlines()[-1]
        raise CompressError(f"{path}: is not OpenVINO IR with its weights beside it ({reason}); export it again") from error
