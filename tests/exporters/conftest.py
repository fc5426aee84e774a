"""Small real networks, and the runtimes that run what was exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress import plugins
from compress.system import quiet
from tests.exporters.tiny import SHAPE, TinyNet, build_network

Images = NDArray[np.float32]
ComputeLogits = Callable[[nn.Module, Images], Images]


@pytest.fixture
def network() -> TinyNet:
    """A network with uneven batch-norm statistics and logits of RMS about 4, left in training mode on purpose."""
    return build_network()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, *SHAPE)


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32)


@pytest.fixture
def compute_logits() -> ComputeLogits:
    """The network's own logits, in evaluation mode."""

    def compute(network: nn.Module, images: Images) -> Images:
        with torch.no_grad():
            logits: Images = copy.deepcopy(network).eval()(torch.from_numpy(images)).numpy()
        return logits

    return compute


@pytest.fixture
def run() -> Callable[[str, Path, Images], Images]:
    """Run an exported file on the runtime of a name."""
    return lambda runtime, path, images: RUNTIMES.get(runtime, partial(run_extra, runtime))(path, images)


def run_onnxruntime(path: Path, images: Images) -> Images:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    logits: Images = session.run(["logits"], {"images": images})[0]
    return logits


def run_openvino(path: Path, images: Images) -> Images:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    compiled = quiet.import_openvino().Core().compile_model(path, "CPU", settings)
    return np.array(compiled({"images": images})["logits"])


def run_torch(path: Path, images: Images) -> Images:
    with torch.no_grad():
        logits: Images = torch.export.load(path).module()(torch.from_numpy(images)).numpy()
    return logits


def run_extra(runtime: str, path: Path, images: Images) -> Images:
    size = 1 if runtime == "litert" else len(images)  # its files take one image, unless asked otherwise
    loaded = plugins.load("runtimes", runtime)(str(path), threads=1, batch_size=size)
    return np.concatenate([loaded(images[start : start + size]) for start in range(0, len(images), size)])


RUNTIMES = {"onnxruntime": run_onnxruntime, "openvino": run_openvino, "torch": run_torch}
