"""One tiny network whose logits are known without any runtime, as a file for each of them."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.protocol import Subject
from tests.benchmarks.tiny import CHANNELS, CLASSES, SIZE, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The network as a file for every runtime of the folder."""
    folder, random = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    weight = random.standard_normal((CHANNELS, CLASSES)).astype(np.float32)
    images = random.standard_normal((11, CHANNELS, SIZE, SIZE)).astype(np.float32)
    network = Tiny(weight, images, {})
    paths = {
        "onnxruntime": network.write_onnx(folder / "tiny.onnx"),
        "openvino": network.write_openvino(folder / "tiny.xml"),
        "torch": network.write_torch(folder / "tiny.pt2"),
    }
    if find_spec("executorch"):
        paths["executorch"] = network.write_extra(folder / "tiny.pte", format="executorch")
    if find_spec("litert_torch"):
        paths["litert"] = network.write_extra(folder / "tiny.tflite", format="litert")
    only = {"litert": 1}  # this format has no dynamic batch
    return network._replace(subjects={name: Subject(name, path, name, only.get(name)) for name, path in paths.items()})
