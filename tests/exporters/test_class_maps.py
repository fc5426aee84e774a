"""What a user can rely on where a file of maps gives the class of each pixel: it is torch's, and the gate proves that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.runtimes.onnxruntime import Onnxruntime
from benchmarks.runtimes.openvino import Openvino
from compress.preprocess import normalise
from compress.records import Preprocess
from compress.tasks.segmentation import resize_logits
from exporters._onnx import graph as onnx_graph
from exporters._openvino import graph as openvino_graph
from exporters.verification.rule import Outputs, enlarge, find_score_errors

HEIGHT, WIDTH, STRIDE, IMAGES = 9, 12, 3, 4
PREPROCESS = Preprocess(height=HEIGHT, width=WIDTH, channels="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def draw_pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, HEIGHT, WIDTH, 3), dtype=np.uint8)


def compute_logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the networks below give: the mean of each colour in each cell."""
    return F.avg_pool2d(torch.from_numpy(normalise(pixels, PREPROCESS)), STRIDE).numpy()


def compute_classes(logits: NDArray[np.float32], **how: Any) -> NDArray[np.uint8]:
    whole = F.interpolate(torch.from_numpy(logits), size=(HEIGHT, WIDTH), mode="bilinear", **{"align_corners": False, **how})
    return whole.argmax(dim=1).numpy().astype(np.uint8)


def write_onnx(path: Path, *, takes_pixels: bool) -> Onnxruntime:
    from onnx import TensorProto, helper, save

    pool = helper.make_node("AveragePool", ["images"], ["logits"], "pool", kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)
    sizes = (["batch", 3, HEIGHT, WIDTH], ["batch", 3, HEIGHT // STRIDE, WIDTH // STRIDE])
    ports = [
        helper.make_tensor_value_info(*each) for each in zip(("images", "logits"), (TensorProto.FLOAT,) * 2, sizes, strict=True)
    ]
    drawn = helper.make_graph([pool], "maps", ports[:1], ports[1:])
    model = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if takes_pixels:
        onnx_graph.add_normalisation(model, PREPROCESS)
    onnx_graph.add_class_and_score(model)
    onnx_graph.check_graph(model, "test", "")
    save(model, path.with_suffix(".onnx"))
    return Onnxruntime(str(path.with_suffix(".onnx")), threads=1, batch_size=None)


def write_openvino(path: Path, *, takes_pixels: bool) -> Openvino:
    import openvino
    from openvino import opset13 as operators

    images = operators.parameter([-1, 3, HEIGHT, WIDTH], openvino.Type.f32, name="images")
    pool = operators.avg_pool(images, [STRIDE] * 2, [0, 0], [0, 0], [STRIDE] * 2, exclude_pad=True)
    images.output(0).set_names({"images"})
    pool.output(0).set_names({"logits"})
    model = openvino.Model([operators.result(pool)], [images], "maps")
    model = openvino_graph.add_normalisation(model, PREPROCESS) if takes_pixels else model
    openvino.save_model(openvino_graph.add_class_and_score(model), path.with_suffix(".xml"), compress_to_fp16=False)
    return Openvino(str(path.with_suffix(".xml")), threads=1, batch_size=None)


@pytest.mark.parametrize("takes_pixels", [False, True], ids=["normalised", "pixels"])
@pytest.mark.parametrize("write", [write_onnx, write_openvino], ids=["onnx", "openvino"])
def test_a_file_gives_the_class_of_each_pixel(write: Callable[..., Any], takes_pixels: bool, tmp_path: Path) -> None:
    """Logits are enlarged as torch does without aligned corners, the largest is taken, and the gate finds nothing wrong."""
    pixels = draw_pixels()
    fed = pixels if takes_pixels else normalise(pixels, PREPROCESS)
    found = write(tmp_path / "maps", takes_pixels=takes_pixels).outputs(fed)
    logits = compute_logits(pixels)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    assert found["class"].dtype == np.uint8
    np.testing.assert_array_equal(found["class"], compute_classes(logits))
    assert [*find_score_errors(Outputs(found["logits"], {"class": found["class"]}), precision="fp32")] == []


WRONG: dict[str, Callable[[NDArray[np.float32]], Any]] = {
    "other corners": lambda logits: compute_classes(logits, align_corners=True),
    "largest before enlarging": lambda logits: logits.argmax(axis=1).repeat(STRIDE, 1).repeat(STRIDE, 2).astype(np.uint8),
    "another image": lambda logits: np.roll(compute_classes(logits), 1, axis=0),
    "no class": lambda logits: compute_classes(logits) + np.uint8(3),
    "not whole": lambda logits: compute_classes(logits).astype(np.float32),
    "one class": lambda logits: logits.argmax(axis=1)[:, 0, 0],
    "missing": lambda _logits: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_map_is_refused(name: str) -> None:
    """Maps that do not follow from the logits beside them are named, whatever else is right."""
    logits = compute_logits(draw_pixels())
    maps = WRONG[name](logits)
    (said,) = find_score_errors(Outputs(logits, {} if maps is None else {"class": maps}), precision="fp32")
    assert "'class'" in said


def test_maps_are_enlarged_as_in_training() -> None:
    """The rule that travels with bundles, the task, and torch agree."""
    logits = np.random.default_rng(0).standard_normal((2, 5, 4, 7), dtype=np.float32)
    wanted = F.interpolate(torch.from_numpy(logits), size=(13, 16), mode="bilinear", align_corners=False).numpy()
    for own, other in zip(logits, wanted, strict=True):
        np.testing.assert_allclose(enlarge(own, (13, 16)), other, atol=1e-5)
        np.testing.assert_array_equal(enlarge(own, (13, 16)), resize_logits(own, (13, 16)))
