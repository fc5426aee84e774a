"""OpenVINO: what is stored, in which precision, and that nothing is reported to anyone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from compress.errors import CompressError
from compress.records import Preprocess
from compress.system import quiet
from exporters import About
from exporters._openvino.graph import extract_reason, translate
from exporters.openvino import Openvino


def stored_types(path):
    nodes = quiet.import_openvino().Core().read_model(path).get_ops()
    return {
        node.get_element_type().get_type_name()
        for node in nodes
        if node.get_type_name() == "Constant" and node.get_element_type().is_real()
    }


@pytest.mark.parametrize(("precision", "stored"), [("fp32", {"f32"}), ("fp16", {"f16"})])
def test_weights_are_stored_as_the_name_says(precision, stored, network, image, tmp_path):
    """fp32 is not silently compressed, fp16 is."""
    exporter = Openvino(precision=precision)
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    assert path.name == f"student-{precision}.xml"
    assert stored_types(path) == stored


def test_fp16_halves_the_weights(network, image, tmp_path):
    """The file is what fp16 is for."""
    sizes = {}
    for precision in ("fp32", "fp16"):
        exporter = Openvino(precision=precision)
        exporter.export(network, image, exporter.name_file(tmp_path, "student"))
        sizes[precision] = exporter.list_parts(exporter.name_file(tmp_path, "student"))[1].stat().st_size
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.05)


def test_input_and_output_keep_their_names(network, image, tmp_path):
    """`images` and `logits`, with a dynamic batch and nothing else dynamic."""
    exporter = Openvino()
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    model = quiet.import_openvino().Core().read_model(path)
    assert [value.any_name for value in (*model.inputs, *model.outputs)] == ["images", "logits"]
    assert [str(value.partial_shape) for value in (*model.inputs, *model.outputs)] == ["[?,3,12,10]", "[?,5]"]


def test_weight_beyond_fp16_is_refused(network, image, tmp_path):
    """OpenVINO would clamp it to 65504 without a word."""
    with torch.no_grad():
        network.classifier.weight[0, 0] = -1e6
    exporter = Openvino(precision="fp16")
    with pytest.raises(
        CompressError,
        match=r"weight 'classifier\.weight' reaches 1e\+06, beyond the 65504 of fp16; export with precision: fp32",
    ):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_precision_is_refused():
    """It is not a silent synonym of something else."""
    with pytest.raises(CompressError, match="'bf16' is not offered; use 'fp32', 'fp16' or 'int8'"):
        Openvino(precision="bf16")


def test_fixed_batch_is_in_the_name_and_in_the_file(network, image, images, compute_logits, run, tmp_path):
    """The file takes exactly that many images and gives the network's logits."""
    exporter = Openvino(precision="fp32", batch=3)
    path = exporter.name_file(tmp_path, "student")
    exporter.export(network, image, path)
    assert path.name == "student-fp32-batch3.xml"
    model = quiet.import_openvino().Core().read_model(path)
    assert [str(value.partial_shape) for value in (*model.inputs, *model.outputs)] == ["[3,3,12,10]", "[3,5]"]
    wanted = compute_logits(network, images[:3])
    assert np.abs(run("openvino", path, images[:3]) - wanted).max() < 1e-4


CONTRACT = Preprocess(height=12, width=10, channels="rgb", mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
ABOUT = About(
    "student",
    ("cat \u00e9\u0001", "a 'quoted\" <dog> & \\", "", "x" * 300, "\u732b"),
    CONTRACT,
    {"teacher": "wrn", "data": "toy"},
)


def said(path):
    """What a file says of itself, as whoever loads it reads it."""
    model = quiet.import_openvino().Core().read_model(path)
    keys = ("name", "classes", "preprocess", "preprocess_by", "provenance", "format_version")
    return {key: model.get_rt_info(["edge_compress", key]).astype(str) for key in keys}


def made(folder, preprocess, precision, network, image):
    exporter = Openvino(precision=precision, preprocess=preprocess)
    path = exporter.name_file(folder, "student")
    exporter.export(network, image, path, about=ABOUT)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_preprocessing_inside_is_normalisation_and_then_the_network(precision, network, image, run, tmp_path):
    """uint8 [N, H, W, C] in; the logits are those of the plain file for images normalised in float64 by the formula."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
    normalised = ((pixels / 255 - np.array(CONTRACT.mean)) / np.array(CONTRACT.std)).transpose(0, 3, 1, 2).astype(np.float32)
    plain, path = (made(tmp_path, preprocess, precision, network, image) for preprocess in ("outside", "inside"))
    assert path.name == f"student-{precision}-pixels.xml"
    wanted = run("openvino", plain, normalised)
    assert np.abs(run("openvino", path, pixels) - wanted).max() < 1e-5 * np.abs(wanted).max()
    model = quiet.import_openvino().Core().read_model(path)
    assert [value.any_name for value in (*model.inputs, *model.outputs)] == ["images", "logits"]
    assert str(model.input(0).partial_shape) == "[?,12,10,3]"
    assert model.input(0).get_element_type().get_type_name() == "u8"


def test_file_says_what_it_is_in_the_same_bytes_each_time(network, image, tmp_path):
    """Classes, preprocessing and provenance survive, characters included that XML cannot hold."""
    path, again = (made(tmp_path / folder, "inside", "fp16", network, image) for folder in ("one", "two"))
    found = said(path)
    assert (found["name"], found["format_version"]) == ("student", "1")
    assert tuple(json.loads(found["classes"])) == ABOUT.classes
    assert Preprocess.model_validate_json(found["preprocess"]) == CONTRACT
    assert found["preprocess_by"] == "file"
    assert json.loads(found["provenance"]) == ABOUT.provenance
    assert path.read_bytes() == again.read_bytes()
    assert path.with_suffix(".bin").read_bytes() == again.with_suffix(".bin").read_bytes()


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        (None, "preprocess: inside needs to know the preprocessing; give `about`"),
        (
            ABOUT._replace(preprocess=CONTRACT.model_copy(update={"height": 14})),
            r"makes images \[3, 14, 10\], the example is \[3, 12, 10\]",
        ),
        (ABOUT._replace(preprocess=CONTRACT.model_copy(update={"std": (0.0, 1.0, 1.0)})), "std above zero"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(about, wrong, network, image, tmp_path):
    """Before anything is written."""
    exporter = Openvino(preprocess="inside")
    with pytest.raises(CompressError, match=wrong):
        exporter.export(network, image, exporter.name_file(tmp_path, "student"), about=about)
    assert list(tmp_path.iterdir()) == []


def test_operator_that_openvino_lacks_is_named():
    """One line, without places in the sources of others; what the caller logs is heard as before."""
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Foo", ["images"], ["logits"], domain="acme")], "one", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)])
    with pytest.raises(CompressError, match=r"\(No conversion rule found for operations: acme\.Foo\); use format: onnx$"):
        translate(model.SerializeToString())
    assert (root.level, root.filters, root.handlers) == before


@pytest.mark.slow
def test_export_reports_nothing_to_anyone(tmp_path):
    """A whole export opens no connection and leaves the user's home as it was."""
    script = """
import socket, sys
opened = []
socket.socket.connect = lambda *arguments: opened.append(arguments)
import torch
from pathlib import Path
from exporters import export
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
export(network, torch.rand(1, 3, 2, 2), Path(sys.argv[1]) / "m.xml", format="openvino")
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
assert "openvino_telemetry" not in sys.modules
assert not opened, opened
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env={**environment, "HOME": str(home)})
    assert [path.name for path in home.rglob("*") if "intel" in path.parts or "openvino" in path.name] == []
    assert (tmp_path / "m.xml").is_file()


DROPOUT = """Model wasn't fully converted. Failed operations detailed log:
-- Dropout-20 with a message:
[ONNX Frontend] Conversion failed for Dropout-20
Check '(!training_mode)' failed at src/frontends/onnx/frontend/src/op/dropout.cpp:20:
Training mode is not supported for Dropout op

Summary:
-- Conversion is failed for: Dropout-20
"""
UNKNOWN = """Summary:
-- No conversion rule found for operations: foo.Foo
To facilitate the conversion
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DROPOUT, "Dropout-20: Training mode is not supported for Dropout op"),
        (UNKNOWN, "No conversion rule found for operations: foo.Foo"),
        ("-- Conv-20 with a message:\n\nSummary:", "Conv-20 with a message:"),
        ("Check failed:\nthe cause", "the cause"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_of_openvino_is_told_whole(text: str, reason: str) -> None:
    """What stands behind the name of the operator says what is wrong with it."""
    assert extract_reason(RuntimeError(text)) == reason
