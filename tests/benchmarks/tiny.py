"""One tiny network whose logits are known without any runtime, and how it is written in each format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.protocol import Images, Subject
from exporters import export

if TYPE_CHECKING:
    import torch

CHANNELS, SIZE, CLASSES = 3, 8, 5


class Tiny(NamedTuple):
    """Mean over the image, then a linear layer."""

    weight: np.ndarray
    """[C, K]"""
    images: Images
    """[N, C, H, W]"""
    subjects: dict[str, Subject]
    """By runtime."""

    def logits(self) -> np.ndarray:
        """Return what every runtime must give, computed here in float64."""
        return self.images.astype(np.float64).mean(axis=(2, 3)) @ self.weight.astype(np.float64)

    def write_onnx(self, path: Path, *, batch: int | str = "batch") -> Path:
        """Write the network as ONNX; `batch` is a number for a static shape."""
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])
        nodes = [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ]
        graph = helper.make_graph(nodes, "tiny", [images], [logits], [numpy_helper.from_array(self.weight, "weight")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    def write_openvino(self, path: Path, *, batch: int | str = "batch") -> Path:
        """Write the network as float32 OpenVINO IR."""
        import openvino

        source = self.write_onnx(path.with_suffix(".source.onnx"), batch=batch)
        openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
        return path

    def module(self) -> torch.nn.Module:
        """Return the network in torch."""
        import torch

        linear = torch.nn.Linear(CHANNELS, CLASSES, bias=False)
        linear.weight = torch.nn.Parameter(torch.from_numpy(self.weight.T.copy()))
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear)

    def write_extra(self, path: Path, *, format: str) -> Path:  # noqa: A002 (the exporter's word)
        """Write the network in a format that is an extra."""
        import torch

        return export(self.module(), torch.zeros(1, CHANNELS, SIZE, SIZE), path, format=format)

    def write_torch(self, path: Path) -> Path:
        """Write the network as torch.export does."""
        import torch

        network = self.module()
        example, batch = torch.zeros(2, CHANNELS, SIZE, SIZE), torch.export.Dim("batch", min=1, max=4096)
        with warnings.catch_warnings():
            # torch 2.13 warns of its own pytree's LeafSpec while it copies it.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), path)
        return path
