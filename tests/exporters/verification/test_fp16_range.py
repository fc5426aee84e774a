"""fp16 activations: what is looked at, where the limits lie, and what is said."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.records import Gate, Preprocess
from exporters import About
from exporters.onnx import Onnx
from exporters.openvino import Openvino
from exporters.verification.fp16_range import _measure_onnx, _measure_openvino, check_fp16_range, judge_peaks
from exporters.verification.interface import ExpectedInterface
from exporters.verification.intermediates import Tensor
from exporters.verification.judge import check_range

PREPROCESS = Preprocess(height=12, width=10, channels="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
CLASSES = tuple("abcde")
PASSED = Gate(status="passed", reason="", samples=6, agreement_percent=100.0, note="few images")
KINDS = pytest.mark.parametrize("kind", [Onnx, Openvino])


def tensor(name: str) -> Tensor:
    return Tensor(name, "Conv", "stem", "images")


def export(network, folder: Path, kind, **options) -> tuple[Path, ExpectedInterface]:
    exporter = kind(precision="fp16", **options)
    path = exporter.name_file(folder, "student")
    exporter.export(network, torch.zeros(1, 3, 12, 10), path, about=About("student", CLASSES, PREPROCESS, {}))
    return path, ExpectedInterface(PREPROCESS, CLASSES, exporter.batch_size, exporter.takes_pixels)


def loud(network, factor: float):
    """The same network, the input of which is made `factor` times as large, a power of four, and as small again."""
    layers = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(4)]
    for layer, times in zip(layers, [factor**0.5] * 2 + [factor**-0.5] * 2, strict=True):
        layer.weight.data = times * torch.eye(3)[:, :, None, None]
    return nn.Sequential(*layers, network)


@pytest.mark.parametrize(
    ("peak", "reason", "note"),
    [
        (32752, "", ""),
        (32753, "", "50 % of what fp16 holds"),
        (65504, "", "100 %"),
        (65504.1, "fp16 overflow", ""),
        (1e9, "1e+09", ""),
    ],
)
def test_beyond_fp16_fails_and_beyond_half_of_it_warns(peak: float, reason: str, note: str) -> None:
    """The largest number of fp16 is still one; the limits are said with the layer and its value."""
    found = judge_peaks([(tensor("first"), 1.0), (tensor("conv"), peak)])
    assert (bool(found.reason), bool(found.note)) == (bool(reason), bool(note))
    assert reason in found.reason
    assert note in found.note
    assert not reason or "stem (Conv)" in found.reason


def test_the_first_layer_is_named_and_the_others_are_counted() -> None:
    """Where it begins is what a user can mend; an infinity that is there in float32 too is not laid to fp16."""
    found = judge_peaks([
        (tensor("mask"), np.inf), (Tensor("first", "Add", "first", ""), 7e4), (tensor("second"), 8e4), (tensor("third"), 9e4),
    ])  # fmt: skip
    assert found.reason.startswith("fp16 overflow: the output of Add 'first' reaches 70000 on these images")
    assert "and 2 further tensors do too" in found.reason
    assert judge_peaks([(tensor("mask"), np.inf)]) == ("", "")


@KINDS
def test_what_is_looked_at_is_what_the_network_computes(kind, network, images, tmp_path) -> None:
    """The largest values are those of torch in float32, for the input of every layer, but for the rounding of weights."""
    path, _ = export(network, tmp_path, kind)
    found: list[float] = []
    watched = copy.deepcopy(network).eval()
    for layer in (watched.block, watched.down, watched.classifier):
        layer.register_forward_pre_hook(lambda _, given: found.append(float(given[0].abs().max())))
    with torch.no_grad():
        watched(torch.from_numpy(images))
    run = {Onnx: _measure_onnx, Openvino: _measure_openvino}[kind]
    peaks = np.array([*run(path, images, None).values()])
    for wanted in found:
        assert np.abs(peaks / wanted - 1).min() < 2e-3, (wanted, peaks)
    assert len(found) == 3


@KINDS
@pytest.mark.parametrize("options", [{"preprocess": "inside"}, {"batch": 4}])
def test_files_of_every_input_are_looked_into(kind, options, network, tmp_path) -> None:
    """Images as pixels, or a batch size that does not divide their number, change nothing."""
    path, promise = export(loud(network, 4.0**9), tmp_path, kind, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
    mean, std = (np.array(values, np.float32) for values in (PREPROCESS.mean, PREPROCESS.std))
    normal = ((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    verdict = check_range(PASSED, path, promise, pixels if promise.takes_pixels else normal, precision="fp16")
    assert verdict.status == "failed"
    assert verdict.reason.startswith("fp16 overflow: the output of 0 (Conv")
    assert float(verdict.reason.split("reaches ")[1].split()[0]) == pytest.approx(np.abs(normal).max() * 4**9, rel=2e-3)


@pytest.mark.slow
@KINDS
def test_a_file_with_room_passes_and_one_with_little_has_a_note(kind, network, images, tmp_path) -> None:
    """What is known already stays in the note; the file passes."""
    path, promise = export(network, tmp_path, kind)
    assert check_range(PASSED, path, promise, images, precision="fp16") == PASSED
    near = 4.0 ** np.floor(np.log(60000 / np.abs(images).max()) / np.log(4))
    path, promise = export(loud(network, near), tmp_path, kind)
    scaled = images * (60000 / near / np.abs(images).max()).astype(np.float32)
    verdict = check_range(PASSED, path, promise, scaled, precision="fp16")
    assert verdict.status == "passed"
    assert verdict.note.startswith("few images; the output of ")
    assert "of what fp16 holds: other images may overflow" in verdict.note


def test_a_format_that_cannot_be_looked_into_says_so(tmp_path) -> None:
    """Not looking is no proof that there is nothing."""
    found = check_fp16_range(tmp_path / "student.acme", np.zeros((1, 3, 12, 10), np.float32), None)
    assert found.reason == ""
    assert "a .acme file cannot be looked into" in found.note
