"""Deployment formats: one file each. `_exporter.py` is their contract, `verification/` the gate, `bundle/` the shipped folder.

    from exporters import export, gate
    export(module, image, "student.onnx", format="onnx", options={"opset": 20})
    export(module, image, "small.onnx", format="onnx", precision="int8", calibration=images)

A format of your own is a class that follows the protocol `Exporter`, or `Quantizer` if it offers int8. Importing this package
loads neither torch, nor numpy, nor any format's package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compress import plugins
from compress.errors import CompressError
from compress.recipe import ExportSection
from exporters._exporter import About, Exporter, Quantizable, Quantization, Quantizer, Simulated
from exporters._onnx.reuse import reuse_graphs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from exporters.verification.gate import gate

__all__ = [
    "About", "Exporter", "Quantizable", "Quantization", "Quantizer", "Simulated", "export", "gate", "load", "reuse_graphs",
]  # fmt: skip


def export(
    module: nn.Module,
    image: Tensor,
    path: str | Path,
    *,
    format: str,  # noqa: A002 (the recipe's word)
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    calibration: NDArray[np.float32] | None = None,
    about: About | None = None,
) -> Path:
    """Write any module as a deployment file, whole or not at all.

    Args:
        module: Maps images [batch, channels, height, width] to logits [batch, classes]; left as it was.
        image: One image, [1, channels, height, width]; only its shape is used.
        path: The file to write, with the suffix of the format.
        format: The format (`compress list exporters`).
        precision: Of the weights, as in a recipe: `fp32`, `fp16`, `int8`; default: that of the format, mostly `fp32`.
        options: Further options of the format, as in a recipe.
        calibration: For precision int8: normalised images of the training split, float32 [N, channels, height, width], from
            which the ranges of activations are estimated. Whether they were good enough is for the gate.
        about: Metadata for the file, where its format has room for them; `preprocess: inside` needs them.

    Returns:
        `path`; further parts of the format lie beside it.

    Raises:
        CompressError: There is no such format or option, the format cannot hold this network, or images are missing or in vain.
        Unreachable: The disk is full, the folder cannot be written, or a package is missing.

    Example:
        >>> import torch, exporters
        >>> from torch import nn
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> exporters.export(layers, torch.zeros(1, 3, 32, 32), "example-fp16.onnx", format="onnx", precision="fp16").name
        'example-fp16.onnx'
    """
    path, options = Path(path), dict(options or {})
    if precision is not None:
        if options.get("precision", precision) != precision:
            raise CompressError(f"precision: {precision!r} and options['precision'] {options['precision']!r} differ; give one")
        options["precision"] = precision
    known = plugins.describe("exporters", format).options
    for option in options:
        if option not in known:
            raise CompressError(
                f"exporters/{format}: there is no option {option!r}; {plugins.suggest_name(option, list(known))}"
            )
    exporter: Exporter = plugins.load("exporters", format)(**options)
    suffix = exporter.name_file(path.parent, path.stem).suffix
    if path.suffix != suffix:
        raise CompressError(f"{path}: a file of format {format!r} ends in {suffix!r}; name it {path.with_suffix(suffix).name}")
    if calibration is None:
        exporter.export(module, image, path, about=about)
    elif exporter.precision != "int8":
        raise CompressError(f"{path}: calibration images are for precision int8, not {exporter.precision}; leave them out")
    else:
        quantizer = cast("Quantizer", exporter)  # every exporter that offers int8 is one
        quantizer.prepare_int8(module, image, calibration, about=about).write(path, Quantization())
    return path


def load(section: ExportSection) -> Exporter:
    """Return the exporter that a section of a recipe describes.

    Raises:
        CompressError: The format does not offer this combination of options.
        Unreachable: A package that the format needs is not installed.

    Example:
        >>> import exporters
        >>> from compress.recipe import ExportSection
        >>> exporters.load(ExportSection(format="openvino")).runtime
        'openvino'
    """
    return cast("Exporter", plugins.load("exporters", section.format)(**section.options()))


def __getattr__(name: str) -> Any:
    if name == "gate":
        from exporters.verification.gate import gate

        return gate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
