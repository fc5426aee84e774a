"""A bundle of a tiny real network that tells dark from bright pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner, Result
from torch import nn

import exporters
from compress import plugins
from compress.cli.commands import program
from compress.preprocess import normalise
from compress.recipe import GateSection
from compress.records import Calibration, Gate, Preprocess, Variant
from exporters.bundle import bundle

CLASSES = ("dark", "middle", "bright")
PREPROCESS = Preprocess(height=8, width=8, channels="rgb", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FORMATS = ("onnx", "openvino")


class Brightness(nn.Module):
    """Tells dark, middle and bright pictures apart by their mean, which is 0 for middle gray."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 3)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[-2.0], [0.0], [2.0]]).expand(3, 3))
            self.classifier.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(images.mean((2, 3)))
        return logits


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="compress")


def measure(runtime: str, temperature: float) -> Variant:
    """Return the row of a file that was calibrated."""
    calibration = Calibration(
        samples=25, nll=1.0, ece_percent=9.0, bins=15, temperature=temperature, scaled_nll=0.5, scaled_ece_percent=2.0
    )
    return Variant(
        name="student", network="student", method="kd", format="any", runtime=runtime, precision="fp32", device="local",
        parameters=12, calibration=calibration, status="passed",
    )  # fmt: skip


def write_bundle(folder: Path, *, shift: float = 0.0, temperature: float | None = None) -> Path:
    """Write a bundle whose stored logits are those of the network, shifted for the first class.

    Args:
        folder: Of the bundle.
        shift: Of the stored logits of the first class.
        temperature: Of every file; default: none is known.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    network = Brightness().eval()
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 10)])
    with torch.no_grad():
        logits = network(torch.from_numpy(normalise(images, PREPROCESS))).numpy()
    files = []
    with exporters.reuse_graphs():
        for name in FORMATS:
            exporter = plugins.load("exporters", name)()
            path = exporter.name_file(folder.parent, "student")
            about = exporters.About("student", CLASSES, PREPROCESS, {})
            exporters.export(network, torch.zeros(1, 3, 8, 8), path, format=name, about=about)
            passed = Gate(status="passed", reason="", samples=25, agreement_percent=100, max_abs_diff=0, top1_drop_points=0)
            measured = None if temperature is None else measure(exporter.runtime, temperature)
            files.append(bundle.Deployable(path, name, exporter, passed, logits, measured))
    stored = logits + np.array([shift, 0, 0], np.float32)
    samples = bundle.Samples(images, logits.argmax(1).astype(np.int64), stored)
    bundle.write_bundle(
        folder,
        name="brightness",
        classes=CLASSES,
        preprocess=PREPROCESS,
        files=files,
        samples=samples,
        gate=GateSection(),
        provenance={},
    )
    return folder
