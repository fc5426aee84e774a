"""What every export refuses in a network, or mends in its copy, before a file is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import CompressError
from exporters import export

IMAGE = torch.zeros(1, 3, 8, 8)


class Around(nn.Module):
    """A small network, run by a function of it and the images."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self.inner, images)


@pytest.mark.parametrize("written", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda n, x: n(x).softmax(1), "its outputs come out of a softmax; take .* postprocess: inside adds class and score"),
        (lambda n, x: n(x).exp() / n(x).exp().sum(1, keepdim=True), "its outputs are probabilities"),
        (lambda n, x: F.dropout(n(x)), r"its answers differ .*\(bernoulli_\), as F.dropout does without training="),
        (lambda n, x: n(x * torch.rand_like(x)), r"its answers differ .*\(rand_like\)"),
    ],
    ids=["softmax", "softmax by hand", "dropout", "noise"],
)
def test_what_gives_no_steady_logits_is_refused(
    run: Callable[[nn.Module, Tensor], Tensor], message: str, written: str, tmp_path: Path
) -> None:
    """The cause is said by every format alike, and nothing is written."""
    suffix = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}[written]
    with pytest.raises(CompressError, match=f"^export of Around: {message}"):
        export(Around(run), IMAGE, tmp_path / f"student{suffix}", format=written)
    assert not list(tmp_path.iterdir())


def compare(module: nn.Module, path: Path) -> float:
    """Return the largest difference between a network and its ONNX file."""
    images = torch.randn(3, 3, 8, 8)
    export(module, IMAGE, path, format="onnx")
    session = onnxruntime.InferenceSession(path)
    assert len(session.get_outputs()) == 1
    with torch.no_grad():
        expected = module(images.clone()).numpy()
    return float(np.abs(session.run(None, {"images": images.numpy()})[0] - expected).max())


def normed() -> nn.Module:
    """Return a network whose weights were computed with gradients, as training leaves them."""
    layers = [nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.utils.spectral_norm(nn.Linear(4, 3)))
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    return network.eval()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(normed, id="old weight norm"),
        pytest.param(lambda: Around(lambda n, x: n(x.sub_(0.5).mul_(2))), id="in place"),
        pytest.param(lambda: nn.Sequential(nn.ReLU(inplace=True), Around(lambda n, x: n(x))), id="in place in its first layer"),
        pytest.param(lambda: torch.compile(Around(lambda n, x: n(x)), backend="eager"), id="compiled"),
        pytest.param(lambda: nn.DataParallel(Around(lambda n, x: n(x))), id="on several devices"),
        pytest.param(lambda: Around(lambda n, x: n(x).log_softmax(1)), id="log-probabilities"),
    ],
)
def test_what_works_in_torch_is_exported(make: Callable[[], Any], tmp_path: Path) -> None:
    """Old weight norm, changes in place and wrappers of torch are no obstacle, and the file computes the same."""
    assert compare(make().eval(), tmp_path / "student.onnx") < 1e-5


def test_a_file_for_int8_leaves_its_input_alone_too(tmp_path: Path) -> None:
    """Images that are calibrated with are not changed for the next network."""
    images = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
    before = images.copy()
    module = Around(lambda n, x: n(x.sub_(0.5)))
    export(module, IMAGE, tmp_path / "s.onnx", format="onnx", options={"precision": "int8"}, calibration=images)
    assert np.array_equal(images, before)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (torch.jit.script, "it is a TorchScript module"),
        (lambda network: torch.jit.trace(network, IMAGE), "it is a TorchScript module"),
        (lambda network: torch.jit.freeze(torch.jit.script(network)), "it is a TorchScript module"),
        (lambda network: nn.Sequential(torch.jit.script(network)), "its part '0' is a TorchScript module"),
    ],
    ids=["scripted", "traced", "frozen", "inside"],
)
def test_torchscript_is_named(make: Callable[[nn.Module], nn.Module], what: str, tmp_path: Path) -> None:
    """One message says what it is and what to give instead."""
    network = Around(lambda n, x: n(x)).inner.eval()
    with pytest.raises(CompressError, match=f"{what} .*give the Python module that it was made of"):
        export(make(network), IMAGE, tmp_path / "student.onnx", format="onnx")
