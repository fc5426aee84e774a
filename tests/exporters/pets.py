"""A small real network and bundles of its files, for the tests of bundles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.preprocess import normalise
from compress.recipe import GateSection
from compress.records import Gate, Preprocess
from exporters import About, Exporter, reuse_graphs
from exporters.bundle.bundle import Deployable, Samples, write_bundle
from exporters.onnx import Onnx
from exporters.openvino import Openvino

CLASSES = ('"cat"|`1`', "dog", "Käfer & <b>")
"""Names that break careless Markdown, C++ and file names."""
PREPROCESS = Preprocess(height=6, width=8, channels="rgb", interpolation="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
PASSED = Gate(status="passed", reason="", samples=6, agreement_percent=100, max_abs_diff=2e-3, top1_drop_points=0)
PROVENANCE = {"recipe": "pets.yaml", "data": "pets", "machine": "a test", "package.numpy": np.__version__}


@cache
def network() -> nn.Module:
    """A network, the same in every call, whose three classes all occur among `samples`."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    ).eval()


def samples() -> Samples:
    """Six images of every class in turn, with the network's own logits."""
    images = np.random.default_rng(0).integers(0, 256, (6, 6, 8, 3), dtype=np.uint8)
    with torch.no_grad():
        logits = network()(torch.from_numpy(normalise(images, PREPROCESS))).numpy()
    return Samples(images, np.arange(6) % 3, logits)


def export(folder: Path, exporter: Exporter) -> Deployable:
    about = About("pets", CLASSES, PREPROCESS, {})
    path = exporter.name_file(folder, "student")
    exporter.export(network(), torch.rand(1, 3, 6, 8), path, about=about)
    return Deployable(path, "onnx" if isinstance(exporter, Onnx) else "openvino", exporter, PASSED, samples().logits)


def files(folder: Path) -> list[Deployable]:
    """Every way in which a file may take pictures: normalised or as they are, in any number or always two."""
    kinds = (Onnx(), Onnx(preprocess="inside", batch=2), Openvino(), Openvino(preprocess="inside"))
    with reuse_graphs():
        return [export(folder, exporter) for exporter in kinds]


def write(folder: Path, deployables: list[Deployable], *, provenance: Mapping[str, str] = PROVENANCE, **further: Any) -> Path:
    about = {"preprocess": PREPROCESS, **further}
    write_bundle(
        folder, name="pets", classes=CLASSES, files=deployables, samples=samples(), gate=GateSection(), provenance=provenance,
        **about,
    )  # fmt: skip
    return folder
