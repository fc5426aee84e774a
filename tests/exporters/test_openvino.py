"""OpenVINO: what is stored, in which precision, and that nothing is reported to anyone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from compress import _quiet
from compress.errors import CompressError
from exporters.openvino import Openvino


def stored_types(path):
    nodes = _quiet.openvino().Core().read_model(path).get_ops()
    return {
        node.get_element_type().get_type_name()
        for node in nodes
        if node.get_type_name() == "Constant" and node.get_element_type().is_real()
    }


@pytest.mark.parametrize(("precision", "stored"), [("fp32", {"f32"}), ("fp16", {"f16"})])
def test_weights_are_stored_as_the_name_says(precision, stored, network, image, tmp_path):
    """fp32 is not silently compressed, fp16 is."""
    exporter = Openvino(precision=precision)
    path = exporter.path(tmp_path, "student")
    exporter.export(network, image, path)
    assert path.name == f"student-{precision}.xml"
    assert stored_types(path) == stored


def test_fp16_halves_the_weights(network, image, tmp_path):
    """The file is what fp16 is for."""
    sizes = {}
    for precision in ("fp32", "fp16"):
        exporter = Openvino(precision=precision)
        exporter.export(network, image, exporter.path(tmp_path, "student"))
        sizes[precision] = exporter.parts(exporter.path(tmp_path, "student"))[1].stat().st_size
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.05)


def test_input_and_output_keep_their_names(network, image, tmp_path):
    """`images` and `logits`, with a dynamic batch and nothing else dynamic."""
    exporter = Openvino()
    path = exporter.path(tmp_path, "student")
    exporter.export(network, image, path)
    model = _quiet.openvino().Core().read_model(path)
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
        exporter.export(network, image, exporter.path(tmp_path, "student"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_precision_is_refused():
    """int8 needs calibration images; it is not a silent synonym of something else."""
    with pytest.raises(CompressError, match="'int8' is not offered; use 'fp32' or 'fp16'"):
        Openvino(precision="int8")


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
