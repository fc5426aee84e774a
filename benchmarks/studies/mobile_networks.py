"""Contract of mobile networks as students: `python -m benchmarks.studies.mobile_networks [--only NAME] [--out FOLDER]`.

Each network has random weights, statistics of batch norm that are not the start's, ten classes, and images of 64 pixels. It is
asked what a distillation asks of a student: maps at several resolutions, the same answers for an image alone and in a batch, a
file in ONNX, OpenVINO and torch's own format with the same answers on its own runtime, and an int8 file. Convolutions are
counted in the network and in the ONNX file, where branches for training alone are merged. What fails is a row with the reason.
No accuracy and no time is measured.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import exporters
from compress.errors import CompressError
from compress.freezing import evaluating
from compress.models import Network, build_model, count_parameters, find_shapes
from compress.system.files import write_whole
from compress.text import format_count

SIDE, CLASSES, BATCH = 64, 10, 4
OUT = Path(__file__).parents[1] / "results" / "mobile_networks"
OF_TIMM = ("mobileone_s0", "repvgg_a0", "fastvit_t8", "repvit_m0_9", "ghostnet_100", "tiny_vit_5m_224", "mobilevit_xxs")
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: ("timm.any", {"architecture": name, "image_size": SIDE}) for name in OF_TIMM},
    "mobilenet_v2": ("torchvision.mobilenet_v2", {}),
    "mobilenet_v3_small": ("torchvision.mobilenet_v3_small", {}),
    "shufflenet_v2_x1_0": ("torchvision.shufflenet_v2_x1_0", {}),
    "mobilenetv4_conv_small": ("timm.mobilenetv4_conv_small", {}),
    "efficientnet_lite0": ("timm.efficientnet_lite0", {}),
}
"""Networks, with their names and options in a recipe."""
FILES = {
    "onnx": ("student.onnx", "fp32"),
    "openvino": ("student.xml", "fp32"),
    "torch": ("student.pt2", "fp32"),
    "onnx int8": ("student-int8.onnx", "int8"),
    "openvino int8": ("student-int8.xml", "int8"),
}
"""Name and precision of each file."""
COLUMNS = ("network", "parameters", "taps", "convolutions", "merged", "alone = batch", *FILES)
CALIBRATION_IMAGES = 64
Logits = NDArray[np.float32]
"""[B, K]."""


def build(model: str, options: Mapping[str, Any]) -> Network:
    """Return a network with random weights, whose batch norms have moved."""
    torch.manual_seed(0)
    network = build_model(model, CLASSES, torch.zeros(1, 3, SIDE, SIDE), options)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return network.eval()


def examine(model: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return what was found of a network, by column; of what cannot be done the reason."""
    network = build(model, options)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with evaluating(network):
        expected = network(images).numpy()
        alone = torch.cat([network(image[None]) for image in images]).numpy()
    row = {
        "parameters": format_count(count_parameters(network)),
        "taps": _try(lambda: _describe_taps(network)),
        "convolutions": str(_count_convolutions(network)),
        "merged": "–",
        "alone = batch": _compare(expected, alone),
    }
    with tempfile.TemporaryDirectory() as folder:
        for column, (name, precision) in FILES.items():
            path = Path(folder) / name
            row[column] = _try(partial(_examine_file, network, images, expected, path, precision))
            if column == "onnx" and path.is_file():
                row["merged"] = str(_count_convolutions_of_file(path))
    return row


def _try(work: Callable[[], str]) -> str:
    try:
        return work()
    except CompressError as error:
        return f"refused: {str(error).splitlines()[0][:160]}"


def _describe_taps(network: Network) -> str:
    shapes = [feature.shape for feature in find_shapes(network, torch.zeros(1, 3, SIDE, SIDE)).features]
    return ", ".join(f"{shape[2]}×{shape[3]}" if len(shape) == 4 else f"{shape[1]} tokens" for shape in shapes) or "none"


def _count_convolutions(network: nn.Module) -> int:
    return sum(isinstance(part, nn.Conv2d) for part in network.modules())


def _count_convolutions_of_file(path: Path) -> int:
    import onnx

    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)


def _compare(expected: Logits, found: Logits) -> str:
    """Return the largest difference of logits in units of their standard deviation."""
    return f"{np.abs(expected - found).max() / expected.std():.1e}"


def _examine_file(network: Network, images: torch.Tensor, expected: Logits, path: Path, precision: str) -> str:
    """Return how far a file's logits on its runtime are from the network's, read without any of our code."""
    kind, calibration = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}[path.suffix], None
    if precision == "int8":
        calibration = torch.randn(CALIBRATION_IMAGES, *images.shape[1:], generator=torch.Generator().manual_seed(2)).numpy()
    exporters.export(network, images[:1], path, format=kind, precision=precision, calibration=calibration)
    found = {"onnx": _run_onnx, "openvino": _run_openvino, "torch": _run_torch}[kind](path, images.numpy())
    return _compare(expected, found)


def _run_onnx(path: Path, images: Logits) -> Logits:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits: Logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    return logits


def _run_openvino(path: Path, images: Logits) -> Logits:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits: Logits = compiled(images)[0]
    return logits


def _run_torch(path: Path, images: Logits) -> Logits:
    with torch.no_grad():
        logits: Logits = torch.export.load(path).module()(torch.from_numpy(images)).numpy()
    return logits


def render(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the table as Markdown."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join([name, *(row[column] for column in COLUMNS[1:])]) for name, row in rows.items()]
    about = (
        f"# Mobile networks as students\n\n{len(rows)} of {len(NETWORKS)} networks are examined so far. "
        "Random weights, ten classes, 64 × 64 pixels. `merged`: convolutions in the ONNX "
        "file. The columns after it are the largest difference of any logit from the network's, in standard deviations of the "
        "logits: of an image alone and in a batch, and of files on their own runtimes. int8 by the first rung of the ladder, "
        f"its ranges from {CALIBRATION_IMAGES} random images; what it costs trained networks is another table "
        "(`benchmarks/results/int8`). Made by `python -m benchmarks.studies.mobile_networks`.\n\n"
    )
    return about + "".join(f"| {line} |\n" for line in lines)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)), help="Examine this network alone.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="Folder of the table.")
def main(only: Sequence[str], out: Path) -> None:
    """Examine the networks, and write the table after each."""
    kept = out / "networks.json"
    rows: dict[str, dict[str, str]] = json.loads(kept.read_text()) if kept.is_file() else {}
    out.mkdir(parents=True, exist_ok=True)
    for name in only or NETWORKS:
        rows[name] = examine(*NETWORKS[name])
        click.echo(f"{name}: {rows[name]}")
        for path, text in ((kept, json.dumps(rows, indent=1) + "\n"), (out / "report.md", render(rows))):
            with write_whole(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
