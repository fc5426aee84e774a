"""Quantize a float32 file of ours by the defaults of a runtime's own quantizer, with the same calibration images.

onnxruntime: its `quant_pre_process`, as its documentation recommends, then `quantize_static`. OpenVINO: `nncf.quantize`, then
`openvino.save_model`. Nothing but the images is passed to any of them. Each runs in a process of its own, for they write to
standard output, keep what they import, and raise whatever they like:

    python -m benchmarks.studies.int8.defaults FORMAT FLOAT32_FILE IMAGES.npy INT8_FILE
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.system import quiet
from compress.system.files import writable

Images = NDArray[np.float32]


class DefaultFile(NamedTuple):
    """A file by the defaults of others, or why there is none."""

    path: Path | None
    seconds: float | None = None
    """Quantizing, without starting Python and importing."""
    reason: str = ""
    """What the quantizer raised."""


def quantize_with_onnxruntime(source: Path, images: Images, target: Path) -> float:
    """Quantize an ONNX file by `onnxruntime.quantization`; return the seconds.

    Args:
        source: In float32, with one input.
        images: For calibration, float32 [N, C, H, W], fed one by one.
        target: The int8 file.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            name = onnx.load(source).graph.input[0].name
            self._feeds: Iterator[dict[str, Images]] = iter([{name: image[None]} for image in images])

        def get_next(self) -> dict[str, Images] | None:
            return next(self._feeds, None)

    begun, prepared = monotonic(), target.with_name(f"prepared-{target.name}")
    quant_pre_process(source, prepared)
    quantize_static(prepared, target, Reader())
    return monotonic() - begun


def quantize_with_nncf(source: Path, images: Images, target: Path) -> float:
    """Quantize OpenVINO IR by NNCF; return the seconds. Images are float32 [N, C, H, W]."""
    openvino, nncf = quiet.import_openvino(), quiet.import_nncf()
    begun = monotonic()
    model = openvino.Core().read_model(source)
    openvino.save_model(nncf.quantize(model, nncf.Dataset(images[:, None])), target)  # each item is a batch of one image
    return monotonic() - begun


TOOLS: Mapping[str, Callable[[Path, Images, Path], float]] = {"onnx": quantize_with_onnxruntime, "openvino": quantize_with_nncf}
"""By format."""
NAMES: Mapping[str, str] = {"onnx": "onnxruntime's defaults", "openvino": "NNCF's defaults"}


def make_default_file(file_format: str, source: Path, images: Images, folder: Path) -> DefaultFile:
    """Return a file that the defaults make, in a folder; a quantizer that fails is a result, too.

    Args:
        file_format: One of `TOOLS`.
        source: In float32.
        images: For calibration, float32 [N, C, H, W].
        folder: Empty; for this file alone.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    shown, target = folder / "images.npy", folder / f"plain{source.suffix}"
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(shown, images, allow_pickle=False)
    words: list[Any] = [sys.executable, "-m", __name__, file_format, source, shown, target]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        return DefaultFile(None, reason=_find_reason(done))
    return DefaultFile(target, json.loads(done.stdout.splitlines()[-1])["seconds"])


def _find_reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"it died of signal {-done.returncode}"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1] if said else f"it ended with status {done.returncode} and said nothing"


if __name__ == "__main__":
    kind, *places = sys.argv[1:]
    float32, calibration, int8 = map(Path, places)
    seconds = TOOLS[kind](float32, np.load(calibration, allow_pickle=False), int8)
    sys.stdout.write(f"\n{json.dumps({'seconds': seconds})}\n")
