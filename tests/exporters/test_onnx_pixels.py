"""ONNX files that normalise by themselves, and what a file says of itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import exporters
from compress import preprocess
from compress.errors import CompressError
from compress.records import Preprocess
from exporters import About, Quantization
from exporters._onnx.graph import add_normalisation
from exporters.onnx import Onnx

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(height=12, width=10, channels="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ABOUT = About("tiny", ("Löwe", "b", "c", "d", "e"), PREPROCESS, {"recipe": "tiny", "commit": "1234"})


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 12, 10, 3), dtype=np.uint8)


def written(exporter, network, image, pixels, tmp_path):
    path = exporter.name_file(tmp_path, "student")
    if exporter.precision == "int8":
        images = preprocess.normalise(pixels, PREPROCESS)
        exporter.prepare_int8(network, image, images, about=ABOUT).write(path, Quantization())
    else:
        exporter.export(network, image, path, about=ABOUT)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_inside_gives_what_outside_gives(precision, network, image, pixels, tmp_path):
    """uint8 images as decoded give the logits that normalised ones give to the file without the front part."""
    paths = [
        written(Onnx(precision=precision, preprocess=place), network, image, pixels, tmp_path)
        for place in ("inside", "outside")
    ]
    assert [path.name for path in paths] == [f"student-{precision}-pixels.onnx", f"student-{precision}.onnx"]
    fed = (pixels, preprocess.normalise(pixels, PREPROCESS))
    inside, outside = (
        onnxruntime.InferenceSession(path).run(["logits"], {"images": images})[0]
        for path, images in zip(paths, fed, strict=True)
    )
    assert np.abs(inside - outside).max() <= 1e-5 * np.abs(outside).max()  # the input differs by 4e-6 at most, see below
    (entry,) = onnx.load(paths[0]).graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim] == ["batch", 12, 10, 3]


@pytest.mark.parametrize(
    "contract",
    [PREPROCESS, Preprocess(height=4, width=6, channels="gray", mean=(0.1307,), std=(0.3081,))],
    ids=["rgb", "gray"],
)
def test_front_part_is_the_contract(contract):
    """Every value of a pixel becomes what `compress.preprocess` makes of it, to 4e-6."""
    channels = contract.depth
    values = np.resize(np.arange(256, dtype=np.uint8), (8, contract.height, contract.width, channels))
    shape = ["batch", channels, contract.height, contract.width]
    entry, result = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("images", "logits"))
    node = onnx.helper.make_node("Neg", ["images"], ["logits"], "network")
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", [entry], [result]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    add_normalisation(model, contract)
    onnx.checker.check_model(model, full_check=True)
    found = -onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": values})[0]
    assert np.abs(found - preprocess.normalise(values, contract)).max() <= 4e-6
    mean, std = np.array(contract.mean), np.array(contract.std)
    assert np.abs(found - ((values / 255 - mean) / std).transpose(0, 3, 1, 2)).max() <= 4e-6


def test_front_part_stays_float_in_int8(network, image, pixels, tmp_path):
    """Quantizing these two operations would cost more than they do."""
    model = onnx.load(written(Onnx(precision="int8", preprocess="inside"), network, image, pixels, tmp_path))
    assert [node.op_type for node in model.graph.node[:5]] == ["Transpose", "Cast", "Mul", "Add", "QuantizeLinear"]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "preprocess: inside needs the preprocessing, which was not given"),
        (
            ABOUT._replace(preprocess=PREPROCESS.model_copy(update={"width": 11})),
            r"makes images \[3, 12, 11\], the example is \[3, 12, 10\]",
        ),
        (ABOUT._replace(preprocess=PREPROCESS.model_copy(update={"std": (1.0, 1.0, 0.0)})), "std above zero"),
    ],
)
def test_preprocessing_that_is_missing_or_wrong_is_refused(about, said, network, image, tmp_path):
    """Before any work, and nothing is written."""
    exporter = Onnx(preprocess="inside")
    with pytest.raises(CompressError, match=said):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"), about=about)
    assert list(tmp_path.iterdir()) == []


class Pooled(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


def test_file_says_what_is_known_and_nothing_else(tmp_path):
    """Names, classes, preprocessing and provenance, in whatever order they were given; none where none is known."""
    contents = []
    for provenance in (ABOUT.provenance, dict(reversed(ABOUT.provenance.items()))):
        path = exporters.export(
            Pooled(), torch.zeros(1, 3, 12, 10), tmp_path / "a.onnx", format="onnx", about=ABOUT._replace(provenance=provenance)
        )
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    model = onnx.load_from_string(contents[0])
    said = {item.key: item.value for item in model.metadata_props}
    assert said.keys() == {"name", "classes", "preprocess", "preprocess_by", "provenance", "format_version"}
    assert (said["name"], said["preprocess_by"], model.doc_string) == ("tiny", "caller", "")
    assert tuple(json.loads(said["classes"])) == ABOUT.classes
    assert Preprocess.model_validate_json(said["preprocess"]) == PREPROCESS
    assert json.loads(said["provenance"]) == ABOUT.provenance
    plain = exporters.export(Pooled(), torch.zeros(1, 3, 12, 10), tmp_path / "b.onnx", format="onnx")
    assert not onnx.load(plain).metadata_props
